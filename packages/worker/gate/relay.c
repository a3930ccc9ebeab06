#include "relay.h"

#include <arpa/inet.h>
#include <endian.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "addresses.h"
#include "clock.h"
#include "util.h"

/* As many bytes as a pipe holds. */
#define PIECE_BYTES 65536u
/* How often one connection moves a piece before the others have their turn. */
#define ROUNDS 16
#define CONNECT_MS 15000
#define COUNT_MS 250
/* So many connections at once have the buffers that the host gives; what is beyond has small ones, so that memory is bounded. */
#define LARGE_MAX 16
#define SMALL_BUFFER_BYTES 32768
/* The daemon's socket, in the gate's root. */
#define THROUGH "/through"
#define DESTINATION_BYTES 6

enum state
{
  FREE,
  ASKED,
  CONNECTING,
  OPEN,
};

/* One direction. */
struct flow
{
  int pipe[2];
  /* Bytes in the pipe. */
  uint32_t held;
  /* No more will come; and the other side has been told so. */
  bool ended, told;
};

struct connection
{
  enum state state;
  /* Has more to move than one turn. */
  bool again;
  /* How often this place was used: an answer to an earlier connection is not one to this. */
  uint32_t turn;
  int guest, outside;
  uint64_t since_ms;
  struct flow sent, received;
};

static struct connection connections[CONNECTIONS_MAX];
static int open_count, poll_fd, listener;
static struct rate accepts = {.per_second = 100, .burst = 256};
static uint64_t bytes_limit, bytes_sent, bytes_received, counted_ms;
static uint32_t made, refused;
static bool exceeded, uncounted, waiting_to_accept;

void relay_begin(int poll, int accepting, uint64_t limit)
{
  poll_fd = poll;
  listener = accepting;
  bytes_limit = limit;
}

static uint32_t id_of(const struct connection *one)
{
  return one->turn * CONNECTIONS_MAX + (uint32_t) (one - connections);
}

static void watch(int fd, const struct connection *one)
{
  struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.u64 = RELAY_FIRST + (uint64_t) (one - connections)};
  epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &event);
}

/* A reset, so that nobody takes what has come for all that there was. */
static void reset(int fd)
{
  const struct linger at_once = {.l_onoff = 1};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}

static void end(struct connection *one, bool whole)
{
  int *const fds[] = {&one->guest, &one->outside, one->sent.pipe, one->sent.pipe + 1, one->received.pipe, one->received.pipe + 1};
  if (!whole) {
    reset(one->guest);
    if (one->outside >= 0)
      reset(one->outside);
  }
  for (size_t at = 0; at < sizeof fds / sizeof *fds; at += 1)
    close_fd(fds[at]);
  one->state = FREE;
  one->again = false;
  open_count -= 1;
  uncounted = true;
}

static void exceed(void)
{
  exceeded = true;
  for (struct connection *one = connections; one < connections + CONNECTIONS_MAX; one += 1)
    if (one->state != FREE)
      end(one, false);
  relay_count();
  control_say('x', 0, NULL, 0);
}

/* Moves what there is, one turn long. False when the connection is broken. */
static bool move(struct connection *one, struct flow *flow, int from, int to, uint64_t *count)
{
  for (int round = 0; round < ROUNDS; round += 1) {
    bool dry = false;
    if (flow->held == 0 && !flow->ended) {
      uint64_t left = bytes_limit - bytes_sent - bytes_received;
      if (left == 0)
        return true;
      long got = RETRY(splice(from, NULL, flow->pipe[1], NULL, left < PIECE_BYTES ? left : PIECE_BYTES, SPLICE_F_NONBLOCK | SPLICE_F_MOVE));
      if (got < 0 && errno != EAGAIN)
        return false;
      dry = got < 0;
      if (got == 0)
        flow->ended = true;
      if (got > 0) {
        flow->held = (uint32_t) got;
        *count += (uint64_t) got;
        uncounted = true;
      }
    }
    if (flow->held > 0) {
      long gave = RETRY(splice(flow->pipe[0], NULL, to, NULL, flow->held, SPLICE_F_NONBLOCK | SPLICE_F_MOVE));
      if (gave < 0)
        return errno == EAGAIN;
      flow->held -= (uint32_t) gave;
    }
    if (flow->held == 0 && flow->ended) {
      if (!flow->told && shutdown(to, SHUT_WR) < 0)
        return false;
      flow->told = true;
      return true;
    }
    if (dry)
      return true;
  }
  one->again = true;
  return true;
}

static void serve(struct connection *one)
{
  one->again = false;
  bool whole = move(one, &one->sent, one->guest, one->outside, &bytes_sent) &&
               move(one, &one->received, one->outside, one->guest, &bytes_received);
  if (bytes_sent + bytes_received >= bytes_limit)
    exceed();
  else if (!whole || (one->sent.told && one->received.told))
    end(one, whole);
}

static void keep_alive(int fd)
{
  const int yes = 1, idle_s = 60, interval_s = 20, probes = 3;
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof yes);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
}

static void put_destination(uint8_t *bytes, const struct sockaddr_in *destination)
{
  uint32_t address = htole32(ntohl(destination->sin_addr.s_addr));
  uint16_t port = htole16(ntohs(destination->sin_port));
  memcpy(bytes, &address, sizeof address);
  memcpy(bytes + 4, &port, sizeof port);
}

static void ask(int guest)
{
  struct connection *one = connections;
  while (one->state != FREE)
    one += 1;
  *one = (struct connection){
    .state = ASKED,
    .turn = (one->turn + 1) % (UINT32_MAX / CONNECTIONS_MAX),
    .guest = guest,
    .outside = -1,
    .since_ms = now_ms(),
    .sent.pipe = {-1, -1},
    .received.pipe = {-1, -1},
  };
  open_count += 1;
  keep_alive(guest);
  watch(guest, one);
  /* What the guest has connected to is the socket's own address. */
  struct sockaddr_in destination;
  socklen_t size = sizeof destination;
  uint8_t wanted[DESTINATION_BYTES];
  if (getsockname(guest, (struct sockaddr *) &destination, &size) < 0) {
    end(one, false);
    return;
  }
  put_destination(wanted, &destination);
  if (!control_say('w', id_of(one), wanted, sizeof wanted))
    end(one, false);
}

void relay_accept(void)
{
  for (;;) {
    waiting_to_accept = open_count == CONNECTIONS_MAX || !rate_take(&accepts, now_ms());
    if (waiting_to_accept)
      return;
    int guest = (int) RETRY(accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (guest < 0 && errno != ECONNABORTED)
      return;
    if (guest < 0)
      continue;
    if (!exceeded) {
      ask(guest);
      continue;
    }
    refused += 1;
    uncounted = true;
    reset(guest);
    close(guest);
  }
}

static void opened(struct connection *one)
{
  if (pipe2(one->sent.pipe, O_NONBLOCK | O_CLOEXEC) < 0 || pipe2(one->received.pipe, O_NONBLOCK | O_CLOEXEC) < 0) {
    end(one, false);
    return;
  }
  one->state = OPEN;
  made += 1;
  serve(one);
}

static int connect_out(const struct sockaddr_in *destination)
{
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return -1;
  keep_alive(fd);
  if (open_count > LARGE_MAX) {
    const int size = SMALL_BUFFER_BYTES;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
  }
  if (connect(fd, (const struct sockaddr *) destination, sizeof *destination) < 0 && errno != EINPROGRESS)
    close_fd(&fd);
  return fd;
}

/* The daemon is told first which connection it is, and where to. */
static int connect_through(uint32_t id, const struct sockaddr_in *destination)
{
  const struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = THROUGH};
  uint8_t first[4 + DESTINATION_BYTES];
  uint32_t number = htole32(id);
  memcpy(first, &number, sizeof number);
  put_destination(first + 4, destination);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return -1;
  if (connect(fd, (const struct sockaddr *) &address, sizeof address) < 0 || send(fd, first, sizeof first, MSG_NOSIGNAL) != (long) sizeof first)
    close_fd(&fd);
  return fd;
}

static void go(struct connection *one, const struct frame *frame)
{
  uint32_t address;
  uint16_t port;
  memcpy(&address, frame->bytes, sizeof address);
  memcpy(&port, frame->bytes + 4, sizeof port);
  address = le32toh(address);
  const struct sockaddr_in destination = {.sin_family = AF_INET, .sin_port = htons(le16toh(port)), .sin_addr.s_addr = htonl(address)};
  if (is_public(address))
    one->outside = frame->type == 't' ? connect_through(frame->id, &destination) : connect_out(&destination);
  if (one->outside < 0) {
    end(one, false);
    return;
  }
  one->state = CONNECTING;
  one->since_ms = now_ms();
  watch(one->outside, one);
}

void relay_obey(const struct frame *frame)
{
  struct connection *one = connections + frame->id % CONNECTIONS_MAX;
  if (one->state != ASKED || id_of(one) != frame->id)
    return;
  if (frame->type != 'n' && frame->length == DESTINATION_BYTES) {
    go(one, frame);
    return;
  }
  refused += 1;
  end(one, false);
}

static bool is_broken(int fd)
{
  int error = 0;
  socklen_t size = sizeof error;
  return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0 || error != 0;
}

static bool is_connected(int fd)
{
  struct sockaddr_storage address;
  socklen_t size = sizeof address;
  return getpeername(fd, (struct sockaddr *) &address, &size) == 0;
}

void relay_event(uint64_t number, uint32_t events)
{
  struct connection *one = connections + (number - RELAY_FIRST);
  if (one->state == FREE)
    return;
  if ((events & EPOLLERR) != 0 && (is_broken(one->guest) || (one->outside >= 0 && is_broken(one->outside)))) {
    end(one, false);
    return;
  }
  if (one->state == CONNECTING && is_connected(one->outside))
    opened(one);
  else if (one->state == OPEN)
    serve(one);
}

int relay_tick(void)
{
  uint64_t now = now_ms();
  int next_ms = -1;
  for (struct connection *one = connections; one < connections + CONNECTIONS_MAX; one += 1) {
    if (one->state == CONNECTING && now - one->since_ms >= CONNECT_MS)
      end(one, false);
    else if (one->state == CONNECTING)
      next_ms = 1000;
    if (one->state == OPEN && one->again)
      serve(one);
  }
  if (waiting_to_accept) {
    relay_accept();
    if (waiting_to_accept && open_count < CONNECTIONS_MAX)
      next_ms = 10;
  }
  if (uncounted && now - counted_ms >= COUNT_MS)
    relay_count();
  if (uncounted && (next_ms < 0 || next_ms > COUNT_MS))
    next_ms = COUNT_MS;
  for (const struct connection *one = connections; one < connections + CONNECTIONS_MAX; one += 1)
    if (one->again)
      return 0;
  return next_ms;
}

void relay_count(void)
{
  struct
  {
    uint64_t sent, received;
    uint32_t made, refused;
  } counts = {htole64(bytes_sent), htole64(bytes_received), htole32(made), htole32(refused)};
  if (!control_say('c', 0, &counts, sizeof counts))
    return;
  uncounted = false;
  counted_ms = now_ms();
}
