/* A whole call, recorded with libtoll: cc minimal.c $(pkg-config --cflags --libs toll) */
#include <stdio.h>
#include <string.h>
#include <toll.h>

int main(void)
{
    struct toll *t;
    int r = toll_open(NULL, &t); /* the daemon at $TOLL_SOCKET, or /run/toll/toll.sock; it may be down */
    if (r < 0) {
        fprintf(stderr, "toll_open: %s\n", strerror(-r));
        return 1;
    }

    unsigned char call[16], turn[16];
    if (toll_id_random(call) < 0 || toll_id_random(turn) < 0)
        return 1;
    const struct toll_pair metadata[] = {{"user_id", "u_42"}, {"region", "eu-central"}};
    toll_session_start(t, call, &(struct toll_session_info){.metadata = {.pairs = metadata, .count = 2}});

    toll_stt(t, call,
             &(struct toll_stt_usage){
                 .provider = "deepgram", .model = "nova-3", .audio_duration_us = 2140000, .turn_id = turn});
    toll_transcript(
        t, call, &(struct toll_turn){.role = "user", .text = "Where is my order?", .language = "en", .turn_id = turn});
    toll_llm(t, call,
             &(struct toll_llm_usage){
                 .provider = "openai", .model = "gpt-4o", .input_tokens = 812, .output_tokens = 24, .turn_id = turn});
    toll_tts(t, call,
             &(struct toll_tts_usage){.provider = "cartesia", .char_count = 31, .voice = "Newsman", .turn_id = turn});
    toll_transcript(
        t, call, &(struct toll_turn){.role = "assistant", .text = "It arrives tomorrow before noon.", .turn_id = turn});

    toll_session_end(t, call, &(struct toll_session_result){.finish_reason = "end"});
    r = toll_close(t, 5000); /* waits until the daemon has all of it on disk */
    if (r < 0)
        fprintf(stderr, "not acknowledged: %s\n", strerror(-r));
    return r < 0;
}
