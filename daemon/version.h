/* The version of toll: the one place where it stands. The Makefile reads it here. */
#ifndef TOLL_DAEMON_VERSION_H
#define TOLL_DAEMON_VERSION_H

#define TOLL_VERSION "0.1.0"

#endif
