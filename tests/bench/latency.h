/* A histogram of latencies, with exact percentiles up to 16 µs. */
#ifndef TOLL_BENCH_LATENCY_H
#define TOLL_BENCH_LATENCY_H

#include <stdint.h>
#include <time.h>

enum { LATENCY_FINE_NS = 16384, LATENCY_OCTAVE = 64, LATENCY_BINS = LATENCY_FINE_NS + 32 * LATENCY_OCTAVE };

static inline uint64_t now_ns(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Latencies of one kind: exact to a nanosecond up to LATENCY_FINE_NS, then 64 steps an octave. */
struct latency {
    uint64_t count, max_ns, in_ns, cpu_ns, above[3]; /* above 2, 10 and 100 µs */
    uint32_t bin[LATENCY_BINS];
};

static inline unsigned bin_of(uint64_t ns)
{
    if (ns < LATENCY_FINE_NS)
        return (unsigned)ns;
    unsigned octave = 63 - (unsigned)__builtin_clzll(ns) - 14; /* LATENCY_FINE_NS is 2¹⁴ */
    unsigned bin = LATENCY_FINE_NS + octave * LATENCY_OCTAVE + (unsigned)(ns >> (octave + 14 - 6)) - LATENCY_OCTAVE;
    return bin < LATENCY_BINS ? bin : LATENCY_BINS - 1;
}

static inline uint64_t bin_ns(unsigned bin)
{
    if (bin < LATENCY_FINE_NS)
        return bin;
    unsigned octave = (bin - LATENCY_FINE_NS) / LATENCY_OCTAVE, step = (bin - LATENCY_FINE_NS) % LATENCY_OCTAVE;
    return (uint64_t)(LATENCY_OCTAVE + step) << (octave + 14 - 6);
}

static inline void latency_note(struct latency *l, uint64_t ns)
{
    static const uint64_t above_ns[3] = {2000, 10000, 100000};
    l->count++;
    l->in_ns += ns;
    l->bin[bin_of(ns)]++;
    if (ns > l->max_ns)
        l->max_ns = ns;
    for (int i = 0; i < 3 && ns > above_ns[i]; i++)
        l->above[i]++;
}

static inline void latency_merge(struct latency *into, const struct latency *from)
{
    into->count += from->count;
    into->in_ns += from->in_ns;
    into->cpu_ns += from->cpu_ns;
    into->max_ns = into->max_ns > from->max_ns ? into->max_ns : from->max_ns;
    for (int i = 0; i < 3; i++)
        into->above[i] += from->above[i];
    for (unsigned i = 0; i < LATENCY_BINS; i++)
        into->bin[i] += from->bin[i];
}

static inline double latency_quantile_us(const struct latency *l, double q)
{
    uint64_t rank = (uint64_t)((double)l->count * q), seen = 0;
    for (unsigned i = 0; i < LATENCY_BINS; i++)
        if ((seen += l->bin[i]) > rank)
            return (double)bin_ns(i) / 1000;
    return (double)l->max_ns / 1000;
}

#endif
