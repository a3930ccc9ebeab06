/* PID 1 of the microVM: sets the guest up, finds the host's port, and serves it. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <linux/netlink.h>
#include <linux/vm_sockets.h>

#include "agent.h"
#include "mounts.h"

#define PORT_NAME "cocore.agent"
/* The dead man's chain: a guest whose daemon is gone must not live on. */
#define SILENCE_MS 20000

/* The virtio port of our name, if it is there by now. Returns a file descriptor, or -1 with errno. */
static int find_port(void)
{
  DIR *ports = opendir("/sys/class/virtio-ports");
  if (ports == NULL)
    return -1;
  int port = -1;
  errno = ENOENT;
  for (struct dirent *entry = readdir(ports); entry != NULL && port < 0; entry = readdir(ports)) {
    char path[300], name[64];
    snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
    if (read_file(path, name, sizeof name) < 0)
      continue;
    name[strcspn(name, "\n")] = '\0';
    if (strcmp(name, PORT_NAME) != 0)
      continue;
    snprintf(path, sizeof path, "/dev/%s", entry->d_name);
    port = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
  }
  closedir(ports);
  return port;
}

/* Ports and their names appear some time after the device: every event of the kernel is a reason to look again. */
static int open_port(void)
{
  scoped_fd events = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT);
  struct sockaddr_nl kernel = {.nl_family = AF_NETLINK, .nl_groups = 1};
  if (events < 0 || bind(events, (struct sockaddr *) &kernel, sizeof kernel) < 0)
    return -1;
  for (;;) {
    char event[4096];
    int port = find_port();
    if (port >= 0)
      return port;
    /* An overrun of the socket's buffer is as good an event as any. */
    if (RETRY(recv(events, event, sizeof event, 0)) < 0 && errno != ENOBUFS)
      return -1;
  }
}

/* Where the host connects to, by the port's number. Returns a file descriptor, or -1 with `fault`. */
static int listen_vsock(const char *port, struct fault *fault)
{
  if (insert_modules("/lib/modules/load-order.vsock", fault) < 0)
    return -1;
  struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = (unsigned) strtoul(port, NULL, 10)};
  scoped_fd listener = socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (listener < 0 || bind(listener, (struct sockaddr *) &address, sizeof address) < 0 || listen(listener, 8) < 0)
    return fail(fault, STAGE_SETUP, errno, "listen on vsock port %s", port);
  int given = listener;
  listener = -1;
  return given;
}

/* The way to the host, by the kernel's command line: `cocore.vsock=PORT`, or else the virtio port. Returns 0, or -1 with `fault`. */
static int open_endpoint(struct endpoint *endpoint, struct fault *fault)
{
  char line[4096], port[16];
  *endpoint = (struct endpoint) {-1, -1};
  if (read_file("/proc/cmdline", line, sizeof line) < 0)
    return fail(fault, STAGE_SETUP, errno, "read /proc/cmdline");
  if (option_of(line, "cocore.vsock", port, sizeof port)) {
    endpoint->listener = listen_vsock(port, fault);
    return endpoint->listener < 0 ? -1 : 0;
  }
  endpoint->stream = open_port();
  return endpoint->stream < 0 ? fail(fault, STAGE_SETUP, errno, "open the port " PORT_NAME) : 0;
}

/* No way to tell the host but the console; the host sees that no HELLO comes. */
static _Noreturn void give_up(const struct fault *fault)
{
  fprintf(stderr, "agent: %s\n", fault->message);
  microvm_platform.power_off();
}

/* A kernel without a console starts its first process without standard streams; the numbers must not go to other files. */
static void hold_standard_streams(void)
{
  int fd;
  do
    fd = open("/dev/null", O_RDWR | O_CLOEXEC);
  while (fd >= 0 && fd <= 2);
  close_fd(&fd);
}

int main(void)
{
  struct fault fault = {0};
  struct endpoint endpoint;
  if (guest_set_up(&fault) < 0)
    give_up(&fault);
  hold_standard_streams();
  if (microvm_prepare(&fault) < 0 || open_endpoint(&endpoint, &fault) < 0)
    give_up(&fault);
  agent_run(endpoint, &microvm_platform, SILENCE_MS);
}
