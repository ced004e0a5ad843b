/* What simulated callers and agents say: whole exchanges, in several languages. Data only. */
#ifndef TOLL_CLIENT_SIM_PHRASES_H
#define TOLL_CLIENT_SIM_PHRASES_H

enum { SIM_EXCHANGES = 5 };

struct sim_exchange {
    const char *user, *assistant;
};

static const struct sim_language {
    const char *code, *greeting;
    struct sim_exchange exchange[SIM_EXCHANGES];
} sim_languages[] = {
    {"en",
     "Hello, this is Ada from Northwind. How can I help you today?",
     {{"Hi, I ordered a lamp last week and it still hasn't arrived.",
       "I'm sorry about that. Let me look up your order, it will only take a moment."},
      {"The number is seven four one, two two nine.",
       "Thank you. The parcel left our warehouse on Tuesday and should reach you tomorrow before noon."},
      {"Can you send it to my office instead?",
       "Of course. I have changed the delivery address, and you will get a message with the new time."},
      {"And what if nobody is there to take it?",
       "Then the driver leaves it with the reception, or tries again the next working day at no extra cost."},
      {"All right, that is all I needed. Thanks a lot!",
       "You are very welcome. Have a lovely day, and enjoy the lamp."}}},
    {"ru",
     "Здравствуйте, это Анна из службы поддержки. Чем могу помочь?",
     {{"Добрый день, у меня второй день не работает интернет.",
       "Мне очень жаль. Сейчас я проверю вашу линию, подождите, пожалуйста, одну минуту."},
      {"Да, конечно, я подожду.", "Спасибо. На вашей улице идут работы, связь восстановят сегодня до восьми вечера."},
      {"А за эти дни вы сделаете перерасчёт?",
       "Да, мы вернём двести рублей на ваш счёт, деньги придут в течение суток."},
      {"Хорошо. А можно перейти на тариф побыстрее?",
       "Можно. Тариф на пятьсот мегабит стоит шестьсот пятьдесят рублей в месяц, подключить его с завтрашнего дня?"},
      {"Нет, я пока подумаю. До свидания.", "Хорошо, звоните в любое время. Всего доброго!"}}},
    {"es",
     "Buenos días, le atiende Lucía, de la clínica Santa Elena. ¿En qué puedo ayudarle?",
     {{"Quería cambiar la cita que tengo el jueves con el dermatólogo.",
       "Claro que sí. ¿Me dice su nombre completo y su fecha de nacimiento, por favor?"},
      {"María Ángeles Núñez, tres de mayo de mil novecientos ochenta y dos.",
       "Gracias, María Ángeles. Tengo un hueco el lunes a las diez y cuarto o el martes a las cinco."},
      {"El martes por la tarde me viene mejor.",
       "Perfecto, queda apuntada el martes a las cinco de la tarde con el doctor Íñigo Peña."},
      {"¿Tengo que llevar algún papel?", "Solo su tarjeta sanitaria y, si los tiene, los últimos análisis."},
      {"Muy bien, muchas gracias.", "A usted. Que pase un buen día."}}},
    {"de",
     "Guten Tag, hier ist Jonas von der Stadtwerke-Hotline. Was kann ich für Sie tun?",
     {{"Ich möchte meinen Zählerstand durchgeben.", "Sehr gern. Nennen Sie mir bitte zuerst Ihre Kundennummer."},
      {"Vier acht null, eins sieben drei.",
       "Danke schön. Und welchen Stand zeigt der Stromzähler heute, ohne die Stelle nach dem Komma?"},
      {"Zwölftausenddreihundertfünf.",
       "Ich habe zwölftausenddreihundertfünf notiert. Damit liegt Ihr Verbrauch etwas unter dem des Vorjahres."},
      {"Das freut mich. Wird mein Abschlag dann kleiner?",
       "Ja, ab dem nächsten Monat zahlen Sie voraussichtlich zweiundachtzig Euro statt neunzig."},
      {"Prima, auf Wiederhören.", "Vielen Dank für Ihren Anruf und einen schönen Tag noch."}}},
    {"hi",
     "नमस्ते, मैं सूर्या ट्रैवल्स से प्रिया बोल रही हूँ। मैं आपकी क्या मदद कर सकती हूँ?",
     {{"मुझे दिल्ली से जयपुर की ट्रेन का टिकट चाहिए।", "ज़रूर। आप किस तारीख़ को जाना चाहते हैं?"},
      {"परसों सुबह।", "परसों सुबह छह बजकर पाँच मिनट पर शताब्दी है, उसमें अभी बारह सीटें खाली हैं।"},
      {"किराया कितना होगा?", "चेयर कार का किराया आठ सौ पैंतालीस रुपये है, नाश्ता उसी में शामिल है।"},
      {"ठीक है, दो टिकट कर दीजिए।", "दो टिकट बुक हो गए हैं। पुष्टि का संदेश आपके फ़ोन पर भेज दिया है।"},
      {"बहुत धन्यवाद।", "आपका स्वागत है। आपकी यात्रा शुभ हो।"}}},
    {"ja",
     "お電話ありがとうございます。さくらホテル、担当の佐藤でございます。",
     {{"来週の金曜日に一泊したいのですが、部屋は空いていますか。", "確認いたします。何名様でいらっしゃいますか。"},
      {"大人二人と子ども一人です。",
       "ありがとうございます。禁煙のトリプルルームをご用意できます。一泊二万四千円でございます。"},
      {"朝食は付いていますか。", "はい、和食と洋食からお選びいただける朝食が付いております。"},
      {"では、それでお願いします。", "かしこまりました。ご予約を承りました。確認のメールをお送りいたします。"},
      {"よろしくお願いします。", "お待ちしております。お電話ありがとうございました。"}}},
    {"fr",
     "Bonjour, ici Camille du service après-vente. Que puis-je faire pour vous ?",
     {{"Ma machine à laver s'arrête au milieu du programme.",
       "Je vois. Est-ce qu'un code d'erreur s'affiche sur l'écran ?"},
      {"Oui, il y a écrit E dix-huit.",
       "Ce code signale un problème de vidange. Le filtre est sans doute bouché, vous pouvez le nettoyer vous-même."},
      {"Et où se trouve ce filtre ?",
       "En bas à droite, derrière la petite trappe. Prévoyez une serpillière, il reste souvent de l'eau."},
      {"D'accord, je vais essayer tout de suite.",
       "Très bien. Si cela recommence, rappelez-nous et nous enverrons un technicien."},
      {"Merci beaucoup, au revoir.", "Je vous en prie. Bonne journée !"}}},
};

enum { SIM_LANGUAGES = sizeof sim_languages / sizeof sim_languages[0] };

#endif
