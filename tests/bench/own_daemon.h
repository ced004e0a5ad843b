/* A tolld of a benchmark's own, on the log sink, in a directory that goes with it. */
#ifndef TOLL_BENCH_OWN_DAEMON_H
#define TOLL_BENCH_OWN_DAEMON_H

#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

struct own_daemon {
    pid_t pid;
    char dir[64], socket[96];
};

static inline _Noreturn void die(const char *what)
{
    perror(what);
    exit(1);
}

static inline int own_daemon_remove(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

/* Starts the program and waits for its socket. */
static inline void own_daemon_start(struct own_daemon *d, const char *tolld)
{
    const char *tmp = getenv("TMPDIR");
    char state[96], control[96], log[96];
    snprintf(d->dir, sizeof d->dir, "%.40s/toll-record-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(d->dir))
        die(d->dir);
    snprintf(d->socket, sizeof d->socket, "%s/toll.sock", d->dir);
    snprintf(state, sizeof state, "%s/state", d->dir);
    snprintf(control, sizeof control, "%s/control.sock", d->dir);
    snprintf(log, sizeof log, "%s/log", d->dir);
    if (mkdir(state, 0700) < 0)
        die(state);
    d->pid = fork();
    if (d->pid < 0)
        die("fork");
    if (d->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        unsetenv("DATABASE_URL");
        setenv("TOLL_SOCKET", d->socket, 1);
        setenv("TOLL_STATE_DIR", state, 1);
        setenv("TOLL_CONTROL", control, 1);
        dup2(open("/dev/null", O_WRONLY), 1);
        dup2(open(log, O_WRONLY | O_CREAT, 0600), 2);
        execl(tolld, tolld, (char *)NULL);
        _exit(127);
    }
    for (int i = 0; access(d->socket, F_OK) < 0; i++) {
        if (i == 1000 || waitpid(d->pid, NULL, WNOHANG) != 0) {
            fprintf(stderr, "%s does not start; see %s\n", tolld, log);
            exit(1);
        }
        usleep(10000);
    }
}

static inline void own_daemon_stop(struct own_daemon *d)
{
    if (d->pid > 0) {
        kill(d->pid, SIGKILL);
        waitpid(d->pid, NULL, 0);
    }
    nftw(d->dir, own_daemon_remove, 16, FTW_DEPTH | FTW_PHYS);
}

#endif
