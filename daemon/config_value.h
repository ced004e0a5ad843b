/* One option's value: from text, to text, compared, freed. For the files of config only. */
#ifndef TOLL_DAEMON_CONFIG_VALUE_H
#define TOLL_DAEMON_CONFIG_VALUE_H

#include "daemon/config.h"
#include "daemon/config_options.h"

enum { CONFIG_REASON_MAX = 400, CONFIG_TEXT_MAX = 64 };

/* Parses and stores the value, replacing (and freeing) the old one. 0, -ENOMEM, or -EINVAL and a reason:
 * "\"12x\" is not a whole number". A secret's value is not in the reason. */
int config_value_set(struct config *config, const struct config_option *option, const char *text,
                     char reason[static CONFIG_REASON_MAX]) __attribute__((warn_unused_result));

bool config_value_equal(const struct config *a, const struct config *b, const struct config_option *option);
void config_value_swap(struct config *a, struct config *b, const struct config_option *option);
void config_value_free(struct config *config,
                       const struct config_option *option); /* leaves NULL, if it was a pointer */

/* The value as a file would have it; strings are returned as they are, others are written to buf. "(set)" for
 * a secret. */
const char *config_value_text(const struct config *config, const struct config_option *option,
                              char buf[static CONFIG_TEXT_MAX]);

/* A number as a file would have it: "64K", "1h", "0660". */
const char *config_number_text(enum config_type type, int64_t number, char buf[static CONFIG_TEXT_MAX]);

#endif
