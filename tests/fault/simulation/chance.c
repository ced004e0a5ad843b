/* Chance, of one seed; the trace and its digest; what was violated. */
#include "tests/fault/simulation/sim.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct sim sim;

uint64_t sim_random(void)
{
    return fakedisk_next(&sim.random);
}

uint64_t sim_below(uint64_t n)
{
    return n < 2 ? 0 : (sim_random() >> 11) % n;
}

void sim_note(const char *what, uint64_t a, uint64_t b)
{
    for (const char *c = what; *c; c++)
        sim.digest = (sim.digest ^ (uint8_t)*c) * 0x100000001B3u;
    sim.digest = (sim.digest ^ a) * 0x100000001B3u;
    sim.digest = (sim.digest ^ b) * 0x100000001B3u;
    sim.digest = (sim.digest ^ (uint64_t)sim.now_us) * 0x100000001B3u;
    if (sim.trace)
        printf(b >> 20 && strcmp(what, "send") == 0 ? "%12.6f %s %lu [%lu, %lu)\n" : "%12.6f %s %lu %lu\n",
               (double)sim.now_us / 1e6, what, a, strcmp(what, "send") == 0 ? b >> 20 : b, b & 0xFFFFF);
}

void sim_violation(unsigned *kind, const char *format, ...)
{
    char text[sizeof(sim.violation)];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    if (kind)
        ++*kind;
    if (sim.violations++ == 0)
        memcpy(sim.violation, text, sizeof(text));
    if (sim.trace)
        printf("%12.6f VIOLATION %s\n", (double)sim.now_us / 1e6, text);
}
