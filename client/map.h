/* Key-values given by the worker, as one msgpack map. No allocation, no state. */
#ifndef TOLL_CLIENT_MAP_H
#define TOLL_CLIENT_MAP_H

#include "client/toll.h"
#include "proto/frame.h"

/* Sets *ret to the map's msgpack: pairs are written into buf, ready msgpack stays where it is; an empty map
 * leaves *ret alone. Returns 0, -EMSGSIZE (does not fit cap), or -EINVAL: both forms at once, a missing key
 * or value, a repeated key, more than TOLL_PAIRS_MAX pairs. Whether ready msgpack is well-formed is not
 * looked at here. */
enum { TOLL_PAIRS_MAX = 256 };
int toll_map_encode(const struct toll_map *map, void *buf, size_t cap, struct toll_str *ret)
    __attribute__((warn_unused_result));

#endif
