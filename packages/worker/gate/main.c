/*
 * The gate of one networked sandbox: the only way out of it, and no route. No packet of the guest is forwarded: every connection ends here, whatever address
 * it was to, and another one is made from here, to where the daemon says that it may go. The gate decides nothing; it moves bytes, counts them, and
 * ends everything when as many have passed as may.
 *
 * The daemon starts it as root, with descriptor 3 being the control socket (control.h), and these in the environment:
 *   GATE_DAEMON   the daemon's process id
 *   GATE_CGROUPS  files to join control groups by, one a line; there may be none
 *   GATE_UID      the user that it becomes
 *   GATE_ROOT     the directory that it has as its file system; the socket `through` may be in it
 *   GATE_TAP      the user whose the tap is to be; without it there is a pair of virtual interfaces
 *   GATE_LIMIT    how many bytes may pass
 *
 * Once it has said 'r', its descriptor NAMESPACE_FD is the network namespace that the sandbox is connected to. Death of the daemon ends it, and the namespace
 * ends with the last process in it.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "confine.h"
#include "control.h"
#include "names.h"
#include "place.h"
#include "relay.h"
#include "util.h"

#define NAMESPACE_FD 100
#define EVENTS_MAX 64

enum source
{
  CONTROL,
  LISTENER,
  NAMES,
};

static struct place place;

static const char *setting(const char *name)
{
  const char *value = getenv(name);
  errno = 0;
  if (value == NULL || *value == '\0')
    give_up("the gate was not told %s", name);
  return value;
}

static void join_cgroups(const char *files)
{
  char *list = strdup(files == NULL ? "" : files);
  for (char *path = strtok(list, "\n"); path != NULL; path = strtok(NULL, "\n"))
    if (write_file(path, "0") < 0)
      give_up("join %s", path);
  free(list);
}

static void obey(const struct frame *frame)
{
  switch (frame->type) {
  case 'a':
    names_answer(place.names, frame);
    break;
  case 'q':
    relay_count();
    break;
  default:
    relay_obey(frame);
  }
}

static void add(int poll, int fd, enum source source, uint32_t events)
{
  struct epoll_event event = {.events = events, .data.u64 = source};
  if (epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event) < 0)
    give_up("watch a descriptor");
}

static _Noreturn void serve(int poll)
{
  for (;;) {
    int wait_ms = relay_tick();
    control_flush();
    struct epoll_event events[EVENTS_MAX];
    int count = (int) RETRY(epoll_wait(poll, events, EVENTS_MAX, wait_ms));
    for (int at = 0; at < count; at += 1) {
      switch (events[at].data.u64) {
      case CONTROL:
        control_read(obey);
        break;
      case LISTENER:
        relay_accept();
        break;
      case NAMES:
        names_take(place.names);
        break;
      default:
        relay_event(events[at].data.u64, events[at].events);
      }
    }
  }
}

int main(void)
{
  pid_t daemon = (pid_t) atoi(setting("GATE_DAEMON"));
  uid_t uid = (uid_t) strtoul(setting("GATE_UID"), NULL, 10);
  uint64_t limit = strtoull(setting("GATE_LIMIT"), NULL, 10);
  const char *root = setting("GATE_ROOT"), *tap = getenv("GATE_TAP");
  die_with_daemon(daemon);
  fcntl(CONTROL_FD, F_SETFD, FD_CLOEXEC);
  signal(SIGPIPE, SIG_IGN);
  join_cgroups(getenv("GATE_CGROUPS"));
  place = place_make(tap != NULL, tap == NULL ? 0 : (uid_t) strtoul(tap, NULL, 10), NAMESPACE_FD);
  int poll = epoll_create1(EPOLL_CLOEXEC);
  if (poll < 0)
    give_up("epoll");
  add(poll, CONTROL_FD, CONTROL, EPOLLIN | EPOLLOUT | EPOLLET);
  add(poll, place.connections, LISTENER, EPOLLIN | EPOLLET);
  add(poll, place.names, NAMES, EPOLLIN | EPOLLET);
  relay_begin(poll, place.connections, limit);
  confine(uid, root, NAMESPACE_FD + 1 + CONNECTIONS_MAX * FILES_PER_CONNECTION, daemon);
  control_say('r', 0, NULL, 0);
  serve(poll);
}
