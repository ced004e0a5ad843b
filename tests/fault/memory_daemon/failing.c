/* The allocations of the daemon's code, wrapped by the linker (tests/fault/memory_daemon.ldflags), and the calls into libraries that allocate:
 * those fail as the libraries say they do. */
#include "tests/fault/memory/failing.h"

#include <dirent.h>
#include <errno.h>
#include <ini.h>
#include <msgpack.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

struct failing failing;
__thread int failing_quiet;

/* `made` counts as one allocation more, if it is one. */
static void *count(void *made)
{
    failing.live += made != NULL;
    return made;
}

/* NOLINTBEGIN(bugprone-reserved-identifier, bugprone-macro-parentheses): the linker's names */
#define WRAP(type, name, parameters, arguments, failure)                                                               \
    type __real_##name parameters;                                                                                     \
    type __wrap_##name parameters;                                                                                     \
    type __wrap_##name parameters                                                                                      \
    {                                                                                                                  \
        if (failing_now()) {                                                                                           \
            errno = ENOMEM;                                                                                            \
            return failure;                                                                                            \
        }                                                                                                              \
        return MADE(__real_##name arguments);                                                                          \
    }

#define MADE(call) count(call)
WRAP(void *, malloc, (size_t size), (size), NULL)
WRAP(void *, calloc, (size_t n, size_t size), (n, size), NULL)
WRAP(char *, strdup, (const char *text), (text), NULL)
WRAP(char *, strndup, (const char *text, size_t size), (text, size), NULL)
#undef MADE
/* What grows counts once. */
#define MADE(call) old ? call : count(call)
WRAP(void *, realloc, (void *old, size_t size), (old, size), NULL)
WRAP(void *, reallocarray, (void *old, size_t n, size_t size), (old, n, size), NULL)
#undef MADE
#define MADE(call) call
WRAP(void *, mmap, (void *at, size_t size, int protection, int flags, int fd, off_t offset),
     (at, size, protection, flags, fd, offset), MAP_FAILED)
WRAP(FILE *, fopen, (const char *path, const char *mode), (path, mode), NULL)
WRAP(DIR *, fdopendir, (int fd), (fd), NULL)
WRAP(int, pthread_create, (pthread_t * thread, const pthread_attr_t *attr, void *(*run)(void *), void *argument),
     (thread, attr, run, argument), EAGAIN)
WRAP(bool, msgpack_zone_init, (msgpack_zone * zone, size_t size), (zone, size), false)
WRAP(void *, msgpack_zone_malloc_expand, (msgpack_zone * zone, size_t size), (zone, size), NULL)
WRAP(msgpack_unpack_return, msgpack_unpack,
     (const char *data, size_t size, size_t *offset, msgpack_zone *zone, msgpack_object *ret),
     (data, size, offset, zone, ret), MSGPACK_UNPACK_NOMEM_ERROR)
WRAP(int, ini_parse_stream, (ini_reader reader, void *stream, ini_handler handler, void *user),
     (reader, stream, handler, user), -2)
#undef MADE

void __real_free(void *memory);
void __wrap_free(void *memory);
void __wrap_free(void *memory)
{
    failing.live -= memory != NULL;
    __real_free(memory);
}
/* NOLINTEND(bugprone-reserved-identifier, bugprone-macro-parentheses) */
