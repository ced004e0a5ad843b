/* Walks the table of metrics. See metrics.h. */
#include "daemon/metrics.h"

struct metric_row {
    const char *name, *help;
    enum metric_kind kind;
    size_t offset;
};

static const struct metric_row rows[] = {
#define METRICS_ROW(name, kind, help) {#name, help, METRIC_##kind, offsetof(struct metrics, name)},
    METRICS_TABLE(METRICS_ROW)
#undef METRICS_ROW
};

void metrics_foreach(const struct metrics *metrics, metrics_visit *visit, void *context)
{
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const _Atomic uint64_t *value = (const void *)((const char *)metrics + rows[i].offset);

        visit(context, rows[i].name, rows[i].kind, rows[i].help, metrics_get(value));
    }
}
