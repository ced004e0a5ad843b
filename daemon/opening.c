/* What tolld opens before anything runs. See opening.h. */
#include "daemon/opening.h"

#include "daemon/listener.h"
#include "daemon/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-id128.h>

void opening_raise_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

unsigned opening_queue_length(void)
{
    FILE *file = fopen("/proc/sys/net/unix/max_dgram_qlen", "re");
    unsigned length = 0;

    if (file && fscanf(file, "%u", &length) == 1 && length < 64)
        log_info(
            "net.unix.max_dgram_qlen is low: bursts wait in the workers' rings more often; 512 is a good value value=%u",
            length);
    if (file)
        fclose(file);
    return length;
}

void opening_journal_options(struct journal_options *ret, const struct config *config, bool adopt)
{
    sd_id128_t machine;

    *ret = (struct journal_options){
        .state_dir = config->daemon.state_dir,
        .segment_bytes = (uint64_t)config->journal.segment_bytes,
        .max_bytes = (uint64_t)config->journal.max_bytes,
        .min_free_bytes = (uint64_t)config->journal.min_free_bytes,
        .retention_us = config->journal.retention_us,
        .adopt = adopt,
    };
    if (sd_id128_get_machine(&machine) >= 0)
        memcpy(ret->machine_id, machine.bytes, sizeof(ret->machine_id));
}

static void report_journal(struct journal *journal, const char *path, const struct journal_report *report)
{
    if (report->foreign)
        log_warning(
            "the journal was written on another machine: it was set aside and a new one begun. If this disk was moved here on purpose, "
            "stop tolld, put it back and start once with --adopt-journal path=%s",
            report->foreign_path);
    if (report->torn_bytes)
        log_warning(
            "the journal's end was torn, as after a crash: bytes that were never acknowledged were cut off and kept bytes=%" PRIu64
            " path=%s",
            report->torn_bytes, report->torn_path);
    if (report->damaged_from != report->damaged_to)
        log_error("the journal is damaged: acknowledged frames do not read back from=%" PRIu64 " to=%" PRIu64,
                  report->damaged_from, report->damaged_to);
    log_info("journal open path=%s end_lsn=%" PRIu64 " bytes=%" PRIu64 " new=%s", path, journal_end_lsn(journal),
             journal_disk_bytes(journal), report->created ? "yes" : "no");
}

int opening_journal(struct journal **ret, const struct config *config, bool adopt)
{
    const char *path = config->daemon.state_dir;
    struct journal_report report = {.created = false};
    struct journal_options options;
    int r;

    if (mkdir(path, 0750) < 0 && errno != EEXIST)
        log_debug("state directory not made path=%s error=%s", path, strerror(errno));
    opening_journal_options(&options, config, adopt);
    r = journal_open(ret, &options, &report);
    if (r == -EBUSY)
        log_error(
            "another tolld is running on this state directory: stop it, or give this one its own (TOLL_STATE_DIR) path=%s",
            path);
    else if (r == -EBADMSG)
        log_error(
            "the journal is damaged and can't be opened: keep a copy of the state directory, then run: tolld --repair-journal path=%s",
            report.damaged_path[0] ? report.damaged_path : path);
    else if (r < 0)
        log_error("the journal can't be opened path=%s error=%s", path, strerror(-r));
    else
        report_journal(*ret, path, &report);
    return r;
}

int opening_socket(int *ret_fd, bool *ret_own, const struct config *config)
{
    int passed = sd_listen_fds(1), socket = -1, r;
    bool own;

    for (int fd = SD_LISTEN_FDS_START; fd < SD_LISTEN_FDS_START + passed; fd++)
        if (sd_is_socket(fd, AF_UNIX, SOCK_DGRAM, -1) > 0)
            socket = fd;
    own = socket < 0;
    if (own)
        socket = listener_bind(config->daemon.socket, (mode_t)config->daemon.socket_mode);
    if (socket < 0) {
        log_error(socket == -ENAMETOOLONG
                      ? "the socket's path is longer than the 107 bytes that a Unix socket may have path=%s error=%s"
                  : socket == -EADDRINUSE ? "the socket is in use by another process, or is no socket path=%s error=%s"
                                          : "the socket can't be bound path=%s error=%s",
                  config->daemon.socket, strerror(-socket));
        return socket;
    }
    r = listener_prepare(socket);
    if (r < 0) {
        log_error("the socket that was passed can't be used error=%s", strerror(-r));
        return r;
    }
    log_info("listening path=%s activated=%s", config->daemon.socket, own ? "no" : "yes");
    *ret_fd = socket;
    *ret_own = own;
    return 0;
}
