/* PID 1 of the microVM: sets the guest up, finds the host's port, and serves it. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <linux/netlink.h>
#include <sys/socket.h>

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
  if (guest_set_up(&fault) < 0) {
    /* No way to tell the host but the console; the host sees that no HELLO comes. */
    fprintf(stderr, "agent: %s\n", fault.message);
    microvm_platform.power_off();
    return 1;
  }
  hold_standard_streams();
  int port = open_port();
  if (port < 0) {
    fprintf(stderr, "agent: the port " PORT_NAME " cannot be opened: %s\n", strerror(errno));
    microvm_platform.power_off();
    return 1;
  }
  agent_run(port, &microvm_platform, SILENCE_MS);
  return 0;
}
