#include "agent.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>

#include "frame.h"
#include "leavings.h"
#include "ring.h"

#define STDIN_WINDOW (256u * 1024)
/* Grows to a TASK frame when one is announced, and only then. */
#define INPUT_BYTES (128u * 1024)
/* How long the FAULT to a host that broke the contract has to reach it. */
#define LAST_WORD_MS 1000
/* The host's silence is counted in so many steps. */
#define SILENCE_STEPS 4
/* How many times the limit of silence a host may take for its first word. */
#define FIRST_WORD_LIMITS 3

enum source
{
  FROM_LISTENER,
  FROM_HOST,
  FROM_SIGNALS,
  FROM_STDIN,
  FROM_STDOUT,
  FROM_STDERR,
};

/*
 * waiting: no task yet. running: its first process lives. ending: it is dead, its streams are being drained. ended: what it left is
 * known, the last frame (EXIT or FAULT) is due or sent, and only POWEROFF or silence are left.
 */
enum phase
{
  WAITING,
  RUNNING,
  ENDING,
  ENDED,
};

/* One output stream. `fd` is -1 once the pipe has ended; `watched` says whether epoll looks at it. */
struct output
{
  int fd;
  bool watched;
  struct ring ring;
};

/* What the task left, and how much of it was sent. */
struct left
{
  struct leavings leavings;
  struct progress result;
  struct progress artifacts;
};

struct agent
{
  const struct platform *platform;
  /* The host connects here, again and again; -1 where `host` is the one stream there is. */
  int listener;
  /* The host's stream, or -1 while it is not connected. */
  int host;
  int epoll;
  timer_t silence;
  int silence_ms;
  enum phase phase;
  /* A SEED came on this connection: nothing starts before. */
  bool seeded;
  /* The host broke the contract: nothing more is read from it, and the guest powers off soon. */
  bool broken;

  /* This connection: the host has said HELLO, and what is owed to it. The newest PING is the one that is answered. */
  bool greeted;
  bool hello_due;
  bool started_due;
  bool pong_due;
  bool stdin_ack_due;
  bool end_due;
  uint8_t nonce[FRAME_NONCE_BYTES];
  uint64_t ping_token;
  uint64_t started_ns;

  uint8_t *in;
  size_t in_length;
  size_t in_capacity;
  uint8_t out[FRAME_DATA_HEADER + FRAME_MAX_DATA];
  size_t out_at;
  size_t out_length;

  struct task task;
  struct output outputs[2];
  /* Which stream goes next, so that neither starves the other. */
  int turn;

  /* Standard input not yet written: `stdin_length` bytes, the first of them at offset `stdin_written`. */
  uint8_t input[STDIN_WINDOW];
  size_t stdin_length;
  uint64_t stdin_written;
  bool stdin_ended;
  bool stdin_watched;

  /* The input file that is being received, or -1, and how much of it is still to come. */
  int input_file;
  uint64_t input_left;

  uint64_t artifacts_limit;
  struct left left;
  struct exit_report report;
  bool faulted;
  struct fault fault;
};

static void watch(struct agent *agent, int fd, enum source source, uint32_t events, int operation)
{
  struct epoll_event event = {.events = events, .data.u32 = source};
  /* Only a broken agent can fail here; without events the host's silence limit ends the guest. */
  (void) epoll_ctl(agent->epoll, operation, fd, &event);
}

/* For the handler of the timer, which has no other way to them. */
static struct agent *silenced;
static volatile sig_atomic_t silent_steps;

/*
 * A guest that was restored from a snapshot may find that its clock has jumped, by any time. While it waits for a task, that counts as one
 * step, so that its new host has time to speak. With a task, time is time: nobody knows what became of the host.
 */
static void on_silence(int number, siginfo_t *signal, void *context)
{
  (void) number;
  (void) context;
  long steps = 1 + (silenced->phase == WAITING ? 0 : signal->si_overrun);
  if (silent_steps + steps >= SILENCE_STEPS)
    silenced->platform->power_off();
  silent_steps += (int) steps;
}

/* The guest powers off after so long, unless the time is set anew. */
static void power_off_in(struct agent *agent, int ms)
{
  int step = ms / SILENCE_STEPS;
  struct timespec period = {.tv_sec = step / 1000, .tv_nsec = step % 1000 * 1000000L};
  struct itimerspec limit = {.it_value = period, .it_interval = period};
  timer_settime(agent->silence, 0, &limit, NULL);
  silent_steps = 0;
}


/* A signal and not an event, so that the dead man's chain also holds while the loop waits for the runtime to start the task. */
static int make_silence_timer(struct agent *agent)
{
  struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
  struct sigaction action = {.sa_sigaction = on_silence, .sa_flags = SA_SIGINFO};
  silenced = agent;
  return sigaction(SIGALRM, &action, NULL) < 0 || timer_create(CLOCK_BOOTTIME, &event, &agent->silence) < 0 ? -1 : 0;
}

/* The task cannot go on: tell the host, kill what runs. `fault` says why. */
static void end_with_fault(struct agent *agent)
{
  if (agent->phase == RUNNING) {
    kill(agent->task.pid, SIGKILL);
    RETRY(waitpid(agent->task.pid, NULL, 0));
    agent->platform->kill_rest();
  }
  close_fd(&agent->input_file);
  close_fd(&agent->task.stdin_fd);
  close_fd(&agent->outputs[0].fd);
  close_fd(&agent->outputs[1].fd);
  agent->phase = ENDED;
  agent->faulted = true;
  agent->end_due = true;
}

static void protocol_fault(struct agent *agent, const char *what)
{
  agent->broken = true;
  /* Not at once: a frame that the monitor has not yet taken out of the port would be lost. */
  power_off_in(agent, agent->silence_ms < LAST_WORD_MS ? agent->silence_ms : LAST_WORD_MS);
  /* After EXIT or another FAULT there is no further word. */
  if (agent->phase == ENDED)
    return;
  fail(&agent->fault, STAGE_PROTOCOL, 0, "%s", what);
  end_with_fault(agent);
}

/* --- The task's streams */

static struct output *output_of(struct agent *agent, enum source source)
{
  return &agent->outputs[source - FROM_STDOUT];
}

/* Reads the pipe when the ring has room, and stops looking at it when it has none: the function then waits. */
static void read_output(struct agent *agent, enum source source)
{
  struct output *output = output_of(agent, source);
  while (output->fd >= 0) {
    uint8_t *at;
    size_t space = ring_space(&output->ring, &at);
    if (space == 0) {
      if (output->watched)
        watch(agent, output->fd, source, 0, EPOLL_CTL_DEL);
      output->watched = false;
      return;
    }
    long count = RETRY(read(output->fd, at, space));
    if (count < 0 && errno == EAGAIN && agent->phase != ENDING)
      break;
    /* When nothing is left that could write, an empty pipe has ended, whoever may still hold its other end. */
    if (count <= 0) {
      close_fd(&output->fd);
      return;
    }
    ring_filled(&output->ring, (size_t) count);
  }
  if (output->fd >= 0 && !output->watched) {
    watch(agent, output->fd, source, EPOLLIN, EPOLL_CTL_ADD);
    output->watched = true;
  }
}

/* Hands buffered standard input to the function. What nobody will read counts as read. */
static void write_stdin(struct agent *agent)
{
  size_t taken = 0;
  while (agent->task.stdin_fd >= 0 && taken < agent->stdin_length) {
    long count = RETRY(write(agent->task.stdin_fd, agent->input + taken, agent->stdin_length - taken));
    if (count < 0 && errno == EAGAIN)
      break;
    if (count < 0)
      close_fd(&agent->task.stdin_fd);
    else
      taken += (size_t) count;
  }
  if (agent->task.stdin_fd < 0)
    taken = agent->stdin_length;
  if (taken > 0) {
    memmove(agent->input, agent->input + taken, agent->stdin_length - taken);
    agent->stdin_length -= taken;
    agent->stdin_written += taken;
    agent->stdin_ack_due = true;
  }
  if (agent->task.stdin_fd < 0)
    return;
  if (agent->stdin_length == 0 && agent->stdin_ended) {
    close_fd(&agent->task.stdin_fd);
    return;
  }
  bool wanted = agent->stdin_length > 0;
  if (wanted != agent->stdin_watched)
    watch(agent, agent->task.stdin_fd, FROM_STDIN, wanted ? EPOLLOUT : 0, wanted ? EPOLL_CTL_ADD : EPOLL_CTL_DEL);
  agent->stdin_watched = wanted;
}

static void begin_input(struct agent *agent, const struct host_frame *frame)
{
  char path[FRAME_MAX_PATH + 1];
  memcpy(path, frame->data, frame->length);
  path[frame->length] = '\0';
  agent->input_file = agent->platform->create_input(path, frame->user, frame->group, &agent->fault);
  agent->input_left = frame->number;
  if (agent->input_file < 0)
    end_with_fault(agent);
  else if (agent->input_left == 0)
    close_fd(&agent->input_file);
}

static void take_input(struct agent *agent, const struct host_frame *frame)
{
  for (size_t at = 0; at < frame->length;) {
    long count = RETRY(write(agent->input_file, frame->data + at, frame->length - at));
    if (count < 0) {
      fail(&agent->fault, STAGE_START, errno, "an input file cannot be written");
      end_with_fault(agent);
      return;
    }
    at += (size_t) count;
  }
  agent->input_left -= frame->length;
  if (agent->input_left == 0)
    close_fd(&agent->input_file);
}

/* What may come between SEED and TASK: whole files, one after the other. */
static void take_file(struct agent *agent, const struct host_frame *frame)
{
  /* The host learns of a fault later than it sends what was to follow. */
  if (agent->faulted)
    return;
  bool begins = frame->type == HOST_FILE;
  if (agent->phase != WAITING || !agent->seeded)
    protocol_fault(agent, "a file out of order");
  else if (begins == (agent->input_file >= 0) || (!begins && frame->length > agent->input_left))
    protocol_fault(agent, "a file of another length");
  else if (begins)
    begin_input(agent, frame);
  else
    take_input(agent, frame);
}

static void start_task(struct agent *agent, const struct host_frame *frame)
{
  agent->artifacts_limit = frame->number;
  if (agent->platform->start(frame->data, frame->length, &agent->task, &agent->fault) < 0) {
    end_with_fault(agent);
    return;
  }
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  agent->started_ns = (uint64_t) now.tv_sec * 1000000000 + (uint64_t) now.tv_nsec;
  agent->started_due = true;
  agent->phase = RUNNING;
  agent->outputs[0].fd = agent->task.stdout_fd;
  agent->outputs[1].fd = agent->task.stderr_fd;
  read_output(agent, FROM_STDOUT);
  read_output(agent, FROM_STDERR);
  write_stdin(agent);
}

static void first_process_ended(struct agent *agent, int status)
{
  struct task_usage usage;
  agent->platform->kill_rest();
  agent->platform->usage(&usage);
  agent->report.kind = WIFSIGNALED(status);
  agent->report.code = (uint32_t) (WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
  agent->report.oom = usage.out_of_memory && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
  agent->report.cpu_us = usage.cpu_us;
  agent->report.memory_peak_bytes = usage.memory_peak_bytes;
  close_fd(&agent->task.stdin_fd);
  write_stdin(agent);
  agent->phase = ENDING;
  read_output(agent, FROM_STDOUT);
  read_output(agent, FROM_STDERR);
}

static void reap(struct agent *agent, int signals)
{
  struct signalfd_siginfo ignored;
  while (read(signals, &ignored, sizeof ignored) > 0)
    ;
  int status;
  pid_t pid;
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
    if (agent->phase == RUNNING && pid == agent->task.pid)
      first_process_ended(agent, status);
}

/* Once both pipes have ended, the lengths are final, and so is what the task left: nobody lives who could change it. */
static void finish_streams(struct agent *agent)
{
  if (agent->phase != ENDING || agent->outputs[0].fd >= 0 || agent->outputs[1].fd >= 0)
    return;
  struct left *left = &agent->left;
  scoped_fd exchange = agent->platform->exchange();
  leavings_open(&left->leavings, exchange, agent->artifacts_limit);
  left->result.end = left->leavings.result_length;
  left->artifacts.end = left->leavings.artifacts.length;
  agent->report.stdout_length = agent->outputs[0].ring.at.end;
  agent->report.stderr_length = agent->outputs[1].ring.at.end;
  agent->report.result_length = left->result.end;
  agent->report.artifacts_length = left->artifacts.end;
  agent->report.artifact_files = left->leavings.artifacts.files;
  agent->report.refused = (uint8_t) left->leavings.refused;
  agent->report.message = left->leavings.message;
  agent->phase = ENDED;
  agent->end_due = true;
}

#define STREAMS 4

/* By the number that ACK gives the stream. */
static struct progress *progress_of(struct agent *agent, uint8_t stream)
{
  switch (stream) {
  case 1: return &agent->outputs[0].ring.at;
  case 2: return &agent->outputs[1].ring.at;
  case 3: return &agent->left.result;
  default: return &agent->left.artifacts;
  }
}

/* --- From the host */

/* Whatever was said on the connection before, the next one begins anew. */
static void forget_connection(struct agent *agent)
{
  agent->greeted = false;
  agent->hello_due = agent->pong_due = false;
  agent->out_at = agent->out_length = 0;
  for (uint8_t stream = 1; stream <= STREAMS; stream++)
    progress_rewind(progress_of(agent, stream));
  /* A new connection is told everything that the old one may not have heard. */
  agent->started_due = agent->phase != WAITING && agent->started_ns != 0;
  agent->end_due = agent->phase == ENDED;
  /* The host gives again, after the STDIN_ACK, what the function has not got. */
  agent->stdin_ack_due = agent->phase != WAITING;
  agent->stdin_length = 0;
  agent->stdin_ended = false;
  /* A file that came in part is given again whole. */
  close_fd(&agent->input_file);
  /* It may be the first one of a restored guest, whose clock and entropy are those of every other that was restored from the same. */
  agent->seeded = false;
}

static void connection_lost(struct agent *agent)
{
  forget_connection(agent);
  agent->in_length = 0;
  if (agent->listener >= 0)
    close_fd(&agent->host);
  /* Nothing runs that the host could have lost: the next one has all the time. Connections break where a guest is restored. */
  if (agent->phase == WAITING && !agent->broken)
    power_off_in(agent, agent->silence_ms);
}

/* The newest connection of the host is the one that counts. */
static void accept_host(struct agent *agent)
{
  for (;;) {
    struct sockaddr_storage peer = {0};
    socklen_t length = sizeof peer;
    scoped_fd connection =
        (int) RETRY(accept4(agent->listener, (struct sockaddr *) &peer, &length, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (connection < 0)
      return;
    if (agent->broken || !agent->platform->is_host((struct sockaddr *) &peer))
      continue;
    if (agent->host >= 0)
      connection_lost(agent);
    agent->host = connection;
    connection = -1;
    watch(agent, agent->host, FROM_HOST, EPOLLIN | EPOLLOUT | EPOLLET, EPOLL_CTL_ADD);
  }
}

static void take_stdin(struct agent *agent, const struct host_frame *frame)
{
  if (frame->number != agent->stdin_written + agent->stdin_length || agent->stdin_ended) {
    protocol_fault(agent, "standard input is not gapless");
    return;
  }
  if (frame->length > STDIN_WINDOW - agent->stdin_length) {
    protocol_fault(agent, "standard input went over its window");
    return;
  }
  memcpy(agent->input + agent->stdin_length, frame->data, frame->length);
  agent->stdin_length += frame->length;
  write_stdin(agent);
}

static bool is_about_task(enum host_frame_type type)
{
  return type == HOST_STDIN || type == HOST_STDIN_END || type == HOST_SIGNAL || type == HOST_ACK;
}

static void take_frame(struct agent *agent, const struct host_frame *frame)
{
  if (!agent->greeted && frame->type != HOST_HELLO) {
    protocol_fault(agent, "the first frame was not HELLO");
    return;
  }
  if (agent->phase == WAITING && is_about_task(frame->type)) {
    protocol_fault(agent, "a frame about a task before TASK");
    return;
  }
  switch (frame->type) {
  case HOST_HELLO:
    if (frame->number != FRAME_VERSION) {
      protocol_fault(agent, "a version of frames that is not known");
      return;
    }
    /* A host that comes back at once: the port was closed and open again before anybody here looked at it. */
    if (agent->greeted)
      forget_connection(agent);
    agent->greeted = agent->hello_due = true;
    memcpy(agent->nonce, frame->data, FRAME_NONCE_BYTES);
    power_off_in(agent, agent->silence_ms);
    return;
  case HOST_SEED:
    if (agent->phase != WAITING)
      protocol_fault(agent, "SEED after TASK");
    else if (agent->platform->seed(frame->number, frame->data, frame->length, &agent->fault) < 0)
      end_with_fault(agent);
    else
      agent->seeded = true;
    return;
  case HOST_TASK:
    if (agent->faulted)
      return;
    if (agent->phase != WAITING)
      protocol_fault(agent, "a second TASK");
    else if (!agent->seeded)
      protocol_fault(agent, "TASK before SEED");
    else if (agent->input_file >= 0)
      protocol_fault(agent, "TASK within a file");
    else
      start_task(agent, frame);
    return;
  case HOST_FILE:
  case HOST_FILE_DATA:
    take_file(agent, frame);
    return;
  case HOST_STDIN:
    take_stdin(agent, frame);
    return;
  case HOST_STDIN_END:
    if (frame->number != agent->stdin_written + agent->stdin_length || agent->stdin_ended) {
      protocol_fault(agent, "STDIN_END at another length");
      return;
    }
    agent->stdin_ended = true;
    write_stdin(agent);
    return;
  case HOST_SIGNAL:
    if (agent->phase == RUNNING)
      kill(agent->task.pid, (int) frame->number);
    return;
  case HOST_PING:
    agent->ping_token = frame->number;
    agent->pong_due = true;
    power_off_in(agent, agent->silence_ms);
    return;
  case HOST_ACK:
    if (!progress_acknowledge(progress_of(agent, frame->stream), frame->number))
      protocol_fault(agent, "an ACK of what was not sent");
    else if (frame->stream <= 2)
      read_output(agent, frame->stream == 1 ? FROM_STDOUT : FROM_STDERR);
    return;
  case HOST_POWEROFF:
    agent->platform->power_off();
  }
}

static const char *status_text(enum frame_status status)
{
  switch (status) {
  case FRAME_TOO_LONG: return "a frame is too long";
  case FRAME_EMPTY: return "a frame has no type";
  case FRAME_UNKNOWN_TYPE: return "a frame has an unknown type";
  default: return "a frame has a bad payload";
  }
}

/* Takes every whole frame out of the input. */
static void take_frames(struct agent *agent)
{
  size_t at = 0;
  while (!agent->broken) {
    struct host_frame frame;
    size_t used;
    enum frame_status status = frame_read(agent->in + at, agent->in_length - at, &frame, &used);
    if (status == FRAME_MORE) {
      if (used > agent->in_capacity) {
        uint8_t *larger = realloc(agent->in, used);
        if (larger == NULL) {
          protocol_fault(agent, "no memory for a frame");
          break;
        }
        agent->in = larger;
        agent->in_capacity = used;
      }
      break;
    }
    if (status != FRAME_OK) {
      protocol_fault(agent, status_text(status));
      break;
    }
    take_frame(agent, &frame);
    at += used;
  }
  memmove(agent->in, agent->in + at, agent->in_length - at);
  agent->in_length -= at;
}

static void read_host(struct agent *agent)
{
  while (agent->host >= 0 && !agent->broken) {
    long count = RETRY(read(agent->host, agent->in + agent->in_length, agent->in_capacity - agent->in_length));
    if (count < 0 && errno == EAGAIN)
      return;
    if (count <= 0) {
      connection_lost(agent);
      return;
    }
    agent->in_length += (size_t) count;
    take_frames(agent);
  }
}

/* --- To the host */

/* The next data frame of one of the task's output streams, or 0 when neither has any. */
static size_t next_output(struct agent *agent)
{
  for (int tries = 0; tries < 2; tries++) {
    int which = agent->turn;
    agent->turn = 1 - agent->turn;
    uint64_t offset;
    size_t length = ring_take(&agent->outputs[which].ring, agent->out + FRAME_DATA_HEADER, FRAME_MAX_DATA, &offset);
    if (length == 0)
      continue;
    frame_write_data_header(agent->out, which == 0 ? GUEST_STDOUT : GUEST_STDERR, offset, length);
    return FRAME_DATA_HEADER + length;
  }
  return 0;
}

/* What the task left cannot be read any more: the host is told instead of getting the rest. */
static void left_is_lost(struct agent *agent)
{
  fail(&agent->fault, STAGE_SETUP, errno, "read what the function left");
  agent->faulted = true;
}

static long read_left(struct agent *agent, enum guest_frame_type type, uint64_t offset, uint8_t *to, size_t size)
{
  struct leavings *leavings = &agent->left.leavings;
  return type == GUEST_RESULT ? result_read(leavings, offset, to, size) : archive_read(&leavings->artifacts, offset, to, size);
}

/* The next data frame of what the task left, within the host's credit; 0 when there is none. */
static size_t next_left(struct agent *agent, enum guest_frame_type type, struct progress *progress)
{
  uint64_t most = progress->acked + RING_BYTES < progress->end ? progress->acked + RING_BYTES : progress->end;
  uint64_t left = most - progress->sent;
  size_t length = left < FRAME_MAX_DATA ? (size_t) left : FRAME_MAX_DATA;
  if (length == 0)
    return 0;
  for (size_t at = 0; at < length;) {
    long count = read_left(agent, type, progress->sent + at, agent->out + FRAME_DATA_HEADER + at, length - at);
    if (count <= 0) {
      left_is_lost(agent);
      return 0;
    }
    at += (size_t) count;
  }
  frame_write_data_header(agent->out, type, progress->sent, length);
  progress_sent(progress, length);
  return FRAME_DATA_HEADER + length;
}

/* The next data frame: output, then the result, then the artifacts. */
static size_t next_data(struct agent *agent)
{
  struct left *left = &agent->left;
  size_t length = next_output(agent);
  if (length == 0)
    length = next_left(agent, GUEST_RESULT, &left->result);
  if (length == 0 && left->result.sent == left->result.end)
    length = next_left(agent, GUEST_ARTIFACTS, &left->artifacts);
  return length;
}

static bool all_sent(const struct left *left)
{
  return left->result.sent == left->result.end && left->artifacts.sent == left->artifacts.end;
}

static bool due(bool *flag)
{
  bool was = *flag;
  *flag = false;
  return was;
}

static void make_printable(char *text)
{
  for (; *text != '\0'; text++)
    if (*text < ' ' || *text > '~')
      *text = '?';
}

/* Fills `out` with the most urgent frame. Small ones go first, so that output never delays an answer; the end goes last. */
static size_t next_frame(struct agent *agent)
{
  if (due(&agent->hello_due))
    return frame_write_hello(agent->out, agent->nonce, AGENT_VERSION);
  if (due(&agent->started_due))
    return frame_write_number(agent->out, GUEST_STARTED, agent->started_ns);
  if (due(&agent->pong_due))
    return frame_write_number(agent->out, GUEST_PONG, agent->ping_token);
  bool last_frame_sent = agent->phase == ENDED && !agent->end_due;
  if (due(&agent->stdin_ack_due) && !agent->faulted && !last_frame_sent)
    return frame_write_number(agent->out, GUEST_STDIN_ACK, agent->stdin_written);
  if (!agent->faulted) {
    size_t length = next_data(agent);
    if (length > 0)
      return length;
  }
  if (!agent->faulted && !all_sent(&agent->left))
    return 0;
  if (!due(&agent->end_due))
    return 0;
  make_printable(agent->faulted ? agent->fault.message : agent->left.leavings.message);
  if (!agent->faulted)
    return frame_write_exit(agent->out, &agent->report);
  return frame_write_fault(agent->out, (uint8_t) agent->fault.stage, (uint32_t) agent->fault.error,
                           agent->fault.message);
}

static void write_host(struct agent *agent)
{
  /* A host that broke the protocol before its HELLO is still told why. */
  while (agent->host >= 0 && (agent->greeted || agent->broken)) {
    if (agent->out_at == agent->out_length) {
      agent->out_at = 0;
      agent->out_length = next_frame(agent);
      if (agent->out_length == 0)
        return;
    }
    long count = RETRY(write(agent->host, agent->out + agent->out_at, agent->out_length - agent->out_at));
    if (count < 0 && errno == EAGAIN)
      return;
    if (count < 0) {
      connection_lost(agent);
      return;
    }
    agent->out_at += (size_t) count;
  }
}

/* --- The loop */

_Noreturn void agent_run(struct endpoint endpoint, const struct platform *platform, int silence_ms)
{
  struct agent *agent = calloc(1, sizeof *agent);
  sigset_t child;
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  sigprocmask(SIG_BLOCK, &child, NULL);
  signal(SIGPIPE, SIG_IGN);
  scoped_fd signals = signalfd(-1, &child, SFD_NONBLOCK | SFD_CLOEXEC);
  scoped_fd epoll = epoll_create1(EPOLL_CLOEXEC);
  uint8_t *in = malloc(INPUT_BYTES);
  if (agent == NULL || in == NULL || signals < 0 || epoll < 0)
    platform->power_off();
  agent->platform = platform;
  agent->listener = endpoint.listener;
  agent->host = endpoint.stream;
  agent->epoll = epoll;
  agent->silence_ms = silence_ms;
  if (make_silence_timer(agent) < 0)
    platform->power_off();
  power_off_in(agent, FIRST_WORD_LIMITS * silence_ms);
  agent->in = in;
  agent->in_capacity = INPUT_BYTES;
  agent->task = (struct task) {.stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1};
  agent->outputs[0].fd = agent->outputs[1].fd = -1;
  agent->input_file = -1;
  agent->left.leavings.artifacts = (struct archive) {.directory = -1, .open_file = -1};
  /* Edges: a port whose host has not connected reports a hang-up all the time. */
  if (agent->host >= 0)
    watch(agent, agent->host, FROM_HOST, EPOLLIN | EPOLLOUT | EPOLLET, EPOLL_CTL_ADD);
  if (agent->listener >= 0)
    watch(agent, agent->listener, FROM_LISTENER, EPOLLIN, EPOLL_CTL_ADD);
  watch(agent, signals, FROM_SIGNALS, EPOLLIN, EPOLL_CTL_ADD);

  for (;;) {
    struct epoll_event events[8];
    long count = RETRY(epoll_wait(epoll, events, 8, -1));
    for (long at = 0; at < count; at++) {
      enum source source = (enum source) events[at].data.u32;
      switch (source) {
      case FROM_LISTENER: accept_host(agent); break;
      case FROM_HOST: read_host(agent); break;
      case FROM_SIGNALS: reap(agent, signals); break;
      case FROM_STDIN: write_stdin(agent); break;
      case FROM_STDOUT:
      case FROM_STDERR: read_output(agent, source); break;
      }
    }
    finish_streams(agent);
    write_host(agent);
  }
}
