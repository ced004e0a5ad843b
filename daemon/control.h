/* The control socket: where tollctl asks. A libuv server that reads requests, runs commands and sends their replies.
 *
 * A request is one msgpack map {"command": str, …arguments}; its reply is {"ok": true, "data": …} or
 * {"ok": false, "error": str}. A connection carries any number of requests, one after the other. It knows nothing of
 * what the commands are about: they come in a table.
 *
 * What a client can do is bounded: 32 clients, a request of 64 KiB, one request at a time, a time limit for
 * sending a request and for taking a reply, and bounds on replies. Everything runs on the loop's thread, but
 * for `work`. */
#ifndef TOLL_DAEMON_CONTROL_H
#define TOLL_DAEMON_CONTROL_H

#include <msgpack.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

enum {
    CONTROL_CLIENTS_MAX = 32,
    CONTROL_REQUEST_MAX = 65536,    /* bytes */
    CONTROL_REPLY_MAX = 4 << 20,    /* bytes of one reply's data */
    CONTROL_REPLIES_MAX = 16 << 20, /* bytes of all replies that clients have not taken yet */
    CONTROL_ERROR_MAX = 256,        /* bytes of an error, its NUL included */
};

struct control; /* opaque */
struct control_request;

/* One row of the table of commands; it has `run` or `work`. `args` is the request's map, with "command" in
 * it; control_value.h looks into it. */
struct control_command {
    const char *name; /* NULL ends the table */

    /* Runs on the loop and must not block. It answers with control_reply() or control_reply_error(), once, at
     * once or later; `args` is valid until then. */
    void (*run)(void *context, const msgpack_object *args, struct control_request *request);

    /* Runs on libuv's thread pool, one at a time, for what may wait for a mutex. Packs the reply's data: one value. 0, or
     * -errno with the error in words (may be left empty). The context must stay valid until control_close()'s
     * callback. */
    int (*work)(void *context, const msgpack_object *args, msgpack_packer *data, char error[static CONTROL_ERROR_MAX]);
};

struct control_options {
    const char *path;
    int mode; /* of the socket, e.g. 0660 */
    const struct control_command *commands;
    void *context;            /* handed to the commands */
    uint64_t idle_timeout_ms; /* for a whole request to come, and for a reply to be taken; 0: 30 s */
};

/* Binds and listens. A socket file that nobody listens on is replaced. Borrows options->commands. Returns 0,
 * or -EADDRINUSE: somebody listens there; -EEXIST: the path is something else than a socket; -ENAMETOOLONG, or another -errno. */
int control_open(struct control **ret, uv_loop_t *loop, const struct control_options *options)
    __attribute__((warn_unused_result));

/* Stops listening, removes the socket, drops all clients. Requests that a command still holds must still be answered. Frees everything and then
 * calls closed(), which may be NULL, once the loop has closed the handles and the last request has ended. Takes NULL. */
void control_close(struct control *control, void (*closed)(void *context), void *context);

/* Answer a request and end it: it must not be used afterwards. If its client went away, nothing is sent. data
 * is one packed msgpack value, which is copied; size 0 is nil. */
void control_reply(struct control_request *request, const void *data, size_t size);
/* The same, with an error where there was no memory to pack it all. */
struct pack_buffer;
void control_reply_packed(struct control_request *request, const struct pack_buffer *data);
void control_reply_error(struct control_request *request, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Whether the client of a request that is still held has closed its connection: nobody will see the reply. */
bool control_abandoned(const struct control_request *request);

/* The replies tolld gives; tollctl shows keys it does not know, so more can be added. *_us are µs (since the epoch for *_at_us, last_*_us).
 *
 * status    {version, uptime_s, pid, sink ("postgres", "log"), sink_state, sink_error, ack, frames_received, frames_stored,
 *            frames_duplicate, frames_quarantined, frames_pending, journal_id, journal_lsn, durable_lsn, committed_lsn, oldest_lsn,
 *            backlog_bytes, journal_bytes, sessions_live, streams, ack_pages, intake ("reading", "paused"), backlog_age_s, quarantine_rows, quarantine_limit,
 *            rating ("off", "waiting", "ok", "retrying", "stopped"), rating_error, rated_lsn (missing: nothing was rated lately), rating_lag_ms,
 *            rating_waiting (events),
 *            alarms [{alarm (its name), since_us (since the epoch), text (what is wrong, and what to do), figures}, the worst first], …}
 * sessions  {limit} → [session …], latest activity first
 * session   {session_id} → {session_id, started_at_us, last_activity_us, llm_calls, llm_input_tokens, llm_output_tokens, tts_calls,
 *            tts_chars, stt_calls, stt_audio_us, complete}, or nil: not live here. complete: memory is the whole story
 * streams   {limit} → [{uid, pid, stream_id, client, received, acked, holes, refused (datagrams), last_seen_us, page, state ("ok",
 *            "poisoned", "refused", "dead", "stalled": streams.h)} …], those that are not "ok" first
 * flush     {timeout_ms} → {committed_lsn}: when everything received before the request is committed; or an error */

#endif
