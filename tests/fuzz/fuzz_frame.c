/* Fuzzes what the writer does with a datagram: the walk through its frames and the decoding of each. */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "daemon/share.h"
#include "proto/frame.h"
#include "proto/peek.h"
#include "proto/utf8.h"
#include "proto/walk.h"
#include "tests/unit/same_frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A decoder that has seen such a frame reads it straight from the bytes, one that is new reads it pair by pair: both say the same. */
static void check_alike(struct toll_decoder *decoder, const void *bytes, size_t size)
{
    struct toll_decoder *fresh = toll_decoder_new();
    struct toll_frame usual, general;
    char reason[TOLL_REASON_MAX], other[TOLL_REASON_MAX];
    int r = toll_frame_decode(decoder, bytes, size, &usual, reason);

    assert(fresh);
    assert(r == toll_frame_decode(fresh, bytes, size, &general, other));
    assert(strcmp(reason, other) == 0);
    assert(r < 0 || same_frame(&usual, &general));
    toll_decoder_free(fresh);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct toll_decoder *decoder;
    struct toll_frame frame;
    char reason[TOLL_REASON_MAX];
    const void *bytes;
    size_t pos = 0, frame_size;
    int step;

    if (!decoder)
        decoder = toll_decoder_new();
    while ((step = toll_walk_next(data, size, &pos, &bytes, &frame_size)) != 0) {
        int r = toll_frame_decode(decoder, bytes, frame_size, &frame, reason);
        assert((r == -EBADMSG) == (step < 0));
        if (step > 0) { /* whose share it is, is found without decoding */
            uint8_t id[16];
            bool found = toll_peek_session(bytes, frame_size, id);
            if (r == 0 && frame.type != TOLL_FRAME_STREAM)
                assert(found == frame.has_session_id && (!found || memcmp(id, frame.session_id, 16) == 0));
            assert(share_of_frame(bytes, frame_size, 3) < (found ? 3 : 1));
        }
        assert(r == 0 || r == -EINVAL || r == -EBADMSG);
        check_alike(decoder, bytes, frame_size);
        assert((r == 0) == (strlen(reason) == 0));
        r = toll_frame_decode(decoder, bytes, frame_size, &frame, reason); /* whose strings are the decoder's */
        if (r == 0 && frame.raw_json.ptr)
            assert(toll_utf8_clean(frame.raw_json.ptr, frame.raw_json.len));
        if (r == 0 && frame.text.ptr)
            assert(toll_utf8_clean(frame.text.ptr, frame.text.len));
    }
    return 0;
}
