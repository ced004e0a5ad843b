/* Makes allocations of the real tolld fail: those that its own code asks for, and if so wanted those of the libraries that it calls for its work.
 * libuv is never among them: it ends the process where it finds no memory for its own tables. Neither is libc.
 *
 * The file that FAILMALLOC names is mapped, so that a test can look and change its mind at any time. All numbers are the host's own:
 *
 *   offset  0: u64 calls: allocations that might have failed, so far
 *           8: u64 from, to: those with numbers in [from, to), from 1, fail
 *          24: u64 failed: how many did
 *          32: u32 libraries: 1, those of libpq, msgpack-c and libinih too
 *
 * Who asks is told by the return address. Not for a sanitizer's build, which has its own allocator. */
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* glibc's, which need no look-up before they can be called. NOLINTBEGIN(bugprone-reserved-identifier) */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *old, size_t size);
/* NOLINTEND(bugprone-reserved-identifier) */

struct control {
    _Atomic uint64_t calls, from, to, failed;
    _Atomic uint32_t libraries;
};

struct range {
    uintptr_t from, to;
};

static struct control *control; /* NULL: not begun */
static struct range program, libraries[4];
static int library_count;

static bool is_within(const struct range *range, uintptr_t address)
{
    return address >= range->from && address < range->to;
}

static struct range code_of(const struct dl_phdr_info *object)
{
    struct range range = {0, 0};

    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *header = &object->dlpi_phdr[i];

        if (header->p_type == PT_LOAD && (header->p_flags & PF_X)) {
            range.from = object->dlpi_addr + header->p_vaddr;
            range.to = range.from + header->p_memsz;
        }
    }
    return range;
}

static int look_at_object(struct dl_phdr_info *object, size_t size, void *context)
{
    static const char *const names[] = {"libpq.so", "libmsgpackc.so", "libmsgpack-c.so", "libinih.so"};
    bool *first = context;

    (void)size;
    if (*first) /* the program itself comes first: dl_iterate_phdr(3) */
        program = code_of(object);
    *first = false;
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        if (library_count < 4 && strstr(object->dlpi_name, names[i]))
            libraries[library_count++] = code_of(object);
    return 0;
}

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("FAILMALLOC");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    bool first = true;
    void *map;

    if (fd < 0 || strcmp(program_invocation_short_name, "tolld") != 0) /* others inherit the environment */
        return;
    dl_iterate_phdr(look_at_object, &first);
    map = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map != MAP_FAILED)
        control = map;
}

static bool fails(void *asking)
{
    uintptr_t address = (uintptr_t)asking;
    bool counts;
    uint64_t call;

    if (!control)
        return false;
    counts = is_within(&program, address);
    for (int i = 0; !counts && control->libraries && i < library_count; i++)
        counts = is_within(&libraries[i], address);
    if (!counts)
        return false;
    call = ++control->calls;
    if (call < control->from || call >= control->to)
        return false;
    control->failed++;
    errno = ENOMEM;
    return true;
}

#define ASKING __builtin_return_address(0)

/* NOLINTBEGIN(readability-inconsistent-declaration-parameter-name): glibc's headers have other names */

void *malloc(size_t size)
{
    return fails(ASKING) ? NULL : __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    return fails(ASKING) ? NULL : __libc_calloc(n, size);
}

void *realloc(void *old, size_t size)
{
    return fails(ASKING) ? NULL : __libc_realloc(old, size);
}

void *reallocarray(void *old, size_t n, size_t size)
{
    size_t bytes;

    if (__builtin_mul_overflow(n, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    return fails(ASKING) ? NULL : __libc_realloc(old, bytes);
}

char *strdup(const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = fails(ASKING) ? NULL : __libc_malloc(size);

    return copy ? memcpy(copy, text, size) : NULL;
}
/* NOLINTEND(readability-inconsistent-declaration-parameter-name) */
