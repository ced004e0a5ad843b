/* Random frames there and back through proto/encode and proto/decode; a failure prints the seed, TOLL_SEED=… repeats it. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "proto/fields.h"
#include "proto/frame.h"
#include "proto/walk.h"

#define STR(text) ((struct toll_str){text, sizeof(text) - 1})

static struct toll_decoder *decoder;
static char reason[TOLL_REASON_MAX];
static uint8_t bytes[TOLL_DATAGRAM_MAX];

static void setup(void)
{
    decoder = toll_decoder_new();
}

static void teardown(void)
{
    toll_decoder_free(decoder);
}

static unsigned seed;

static unsigned random_below(unsigned n)
{
    return (unsigned)rand_r(&seed) % n;
}

static int64_t random_bits(unsigned bits)
{
    uint64_t n = (uint64_t)rand_r(&seed) << 60 ^ (uint64_t)rand_r(&seed) << 30 ^ (uint64_t)rand_r(&seed);
    return (int64_t)(n & ((UINT64_C(1) << (1 + random_below(bits))) - 1));
}

static char pool[64][TOLL_NAME_MAX + 1]; /* the strings of one random frame */
static unsigned pool_used;

static struct toll_str random_str(void)
{
    static const char *const pieces[] = {"a", "Z", "\"", "\\", "\n", "ж", "您", "👋", "\x7f", " "};
    char *text = pool[pool_used++];
    uint32_t size = 0;

    for (unsigned n = random_below(60); n > 0; n--) {
        for (const char *c = pieces[random_below(10)]; *c; c++)
            text[size++] = *c;
    }
    return (struct toll_str){text, size};
}

static void random_field(const struct toll_field *field, struct toll_frame *frame)
{
    void *at = (char *)frame + field->offset;

    if (field->has)
        *((bool *)frame + field->has) = true;
    switch ((enum toll_kind)field->kind) {
    case TOLL_KIND_TYPE:
    case TOLL_KIND_MAP: /* JSON does not come back as msgpack; the vectors have maps */
        break;
    case TOLL_KIND_UUID:
    case TOLL_KIND_BIN16:
        for (int i = 0; i < 16; i++)
            ((uint8_t *)at)[i] = (uint8_t)rand_r(&seed);
        break;
    case TOLL_KIND_TIME:
        *(int64_t *)at = random_below(2) ? random_bits(62) : -random_bits(62);
        break;
    case TOLL_KIND_NAME:
    case TOLL_KIND_TEXT:
        *(struct toll_str *)at = random_str();
        break;
    case TOLL_KIND_COUNT:
        *(int32_t *)at = (int32_t)random_bits(30);
        break;
    case TOLL_KIND_NUMBER:
        *(uint64_t *)at = (uint64_t)random_bits(62);
        break;
    case TOLL_KIND_DURATION:
        *(int64_t *)at = random_bits(50);
        break;
    case TOLL_KIND_QUANTITY:
        frame->quantity_value = (double)random_bits(60) / (random_below(2) ? 1 : 1e3);
        break;
    case TOLL_KIND_BOOL:
        *(bool *)at = random_below(2);
        break;
    }
}

static void random_frame(struct toll_frame *frame)
{
    toll_frame_init(frame, 1 + random_below(TOLL_FRAME_STREAM));
    pool_used = 0;
    for (unsigned i = 0; i < TOLL_FIELDS; i++) {
        const struct toll_field *field = &toll_fields[i];
        unsigned bit = TOLL_TYPE_BIT(frame->type);
        if ((field->required & bit) || ((field->optional & bit) && random_below(2)))
            random_field(field, frame);
    }
    /* The rules that tie keys together. */
    if (frame->type == TOLL_FRAME_TRANSCRIPT)
        frame->role = random_below(2) ? STR("user") : STR("assistant");
    if (frame->type == TOLL_FRAME_USAGE && !frame->account.ptr)
        frame->has_session_id = true;
    if (frame->type == TOLL_FRAME_SESSION_END && !frame->finish_reason.ptr)
        frame->finish_reason = STR("end");
    if (frame->type == TOLL_FRAME_LLM) {
        frame->cached_input_tokens = frame->input_tokens;
        frame->cache_write_tokens = TOLL_ABSENT;
        frame->audio_input_tokens = frame->cached_audio_tokens = frame->input_tokens / 2;
        frame->reasoning_tokens = frame->output_tokens;
        frame->audio_output_tokens = frame->output_tokens / 3;
    }
    if (frame->type == TOLL_FRAME_STREAM) {
        frame->stream_seq &= TOLL_SEQ_MAX >> 1;
        frame->stream_seq += 2;
        frame->stream_base = 1 + frame->stream_seq / 2;
        frame->stream_count %= TOLL_DATAGRAM_MAX;
    }
}

static bool same_str(const struct toll_str *a, const struct toll_str *b)
{
    if (!a->ptr || !b->ptr)
        return !a->ptr && !b->ptr;
    return a->len == b->len && memcmp(a->ptr, b->ptr, a->len) == 0;
}

static bool same_field(const struct toll_field *field, const struct toll_frame *a, const struct toll_frame *b)
{
    const void *x = (const char *)a + field->offset, *y = (const char *)b + field->offset;

    if (field->has && *((const bool *)a + field->has) != *((const bool *)b + field->has))
        return false;
    switch ((enum toll_kind)field->kind) {
    case TOLL_KIND_TYPE:
        return a->type == b->type;
    case TOLL_KIND_UUID:
    case TOLL_KIND_BIN16:
        return memcmp(x, y, 16) == 0;
    case TOLL_KIND_NAME:
    case TOLL_KIND_TEXT:
    case TOLL_KIND_MAP:
        return same_str(x, y);
    case TOLL_KIND_COUNT:
        return *(const int32_t *)x == *(const int32_t *)y;
    case TOLL_KIND_TIME:
    case TOLL_KIND_NUMBER:
    case TOLL_KIND_DURATION:
        return *(const int64_t *)x == *(const int64_t *)y;
    case TOLL_KIND_QUANTITY:
        return a->quantity_value == b->quantity_value && strtod(b->quantity, NULL) == a->quantity_value;
    case TOLL_KIND_BOOL:
        return *(const bool *)x == *(const bool *)y;
    }
    return false;
}

START_TEST(random_frames_come_back)
{
    struct toll_frame sent, found;
    size_t size;

    const char *text = getenv("TOLL_SEED");
    unsigned first = text ? (unsigned)strtoul(text, NULL, 10) : (unsigned)time(NULL);
    for (unsigned round = 0; round < 5000; round++) {
        seed = first + round;
        random_frame(&sent);
        int r = toll_frame_encode(&sent, bytes, sizeof(bytes));
        ck_assert_msg(r > 0, "TOLL_SEED=%u: encoding returned %d", first + round, r);
        ck_assert_int_eq(toll_walk(bytes, (size_t)r, &size), 0);
        ck_assert_uint_eq(size, (size_t)r);
        r = toll_frame_decode(decoder, bytes, size, &found, reason);
        ck_assert_msg(r == 0, "TOLL_SEED=%u: decoding returned %d: %s", first + round, r, reason);
        ck_assert_uint_eq(found.replaced, 0);
        for (unsigned i = 0; i < TOLL_FIELDS; i++)
            if ((toll_fields[i].required | toll_fields[i].optional) & TOLL_TYPE_BIT(sent.type))
                ck_assert_msg(same_field(&toll_fields[i], &sent, &found), "TOLL_SEED=%u: %s of %s", first + round,
                              toll_fields[i].name, toll_frame_type_name(sent.type));
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("frame_random");
    TCase *tcase = tcase_create("frame_random");
    SRunner *runner = srunner_create(suite);

    tcase_set_timeout(tcase, 20);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, random_frames_come_back);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
