#include "machine.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <time.h>

#include "mounts.h"

#define LOOK_MS 5

static int listener = -1;
static int stream = -1;

void sleep_ms(long ms)
{
  struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
  nanosleep(&pause, NULL);
}

_Noreturn void power_off(void)
{
  reboot(RB_AUTOBOOT);
  for (;;)
    pause();
}

static _Noreturn void give_up(const char *what)
{
  fprintf(stderr, "hostile: %s: %s\n", what, strerror(errno));
  power_off();
}

/* The one virtio port, by whatever numbers it has. Returns a file descriptor, or -1. */
static int find_port(void)
{
  DIR *devices = opendir("/dev");
  int port = -1;
  for (struct dirent *entry = readdir(devices); entry != NULL && port < 0; entry = readdir(devices))
    if (strncmp(entry->d_name, "vport", 5) == 0)
      port = openat(dirfd(devices), entry->d_name, O_RDWR | O_NONBLOCK | O_CLOEXEC);
  closedir(devices);
  return port;
}

void open_port(void)
{
  char line[4096], number[16];
  if (read_file("/proc/cmdline", line, sizeof line) < 0)
    give_up("read /proc/cmdline");
  if (!option_of(line, "cocore.vsock", number, sizeof number)) {
    /* It appears some time after its device. */
    while ((stream = find_port()) < 0)
      sleep_ms(LOOK_MS);
    return;
  }
  struct fault fault;
  if (insert_modules("/lib/modules/load-order.vsock", &fault) < 0)
    give_up(fault.message);
  struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = (unsigned) strtoul(number, NULL, 10)};
  listener = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener < 0 || bind(listener, (struct sockaddr *) &address, sizeof address) < 0 || listen(listener, 8) < 0)
    give_up("listen");
}

int host_stream(void)
{
  while (stream < 0 && listener >= 0)
    stream = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
  return stream;
}

void drop_stream(void)
{
  /* The virtio port reads as ended while nobody is at its other end. */
  if (listener < 0)
    sleep_ms(LOOK_MS);
  else
    close_fd(&stream);
}

void close_port(void)
{
  close_fd(&stream);
  close_fd(&listener);
}

static bool read_script(const char *path, const char *head, char *script)
{
  static char block[SCRIPT_BYTES] __attribute__((aligned(4096)));
  /* Direct: the kernel must not answer with what was on the placeholder. */
  scoped_fd fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
  if (fd < 0 || read(fd, block, sizeof block) != (long) sizeof block || strncmp(block, head, strlen(head)) != 0)
    return false;
  memcpy(script, block, sizeof block);
  script[sizeof block] = '\0';
  return true;
}

bool find_script(const char *head, char *script)
{
  for (char letter = 'a'; letter <= 'c'; letter++) {
    char path[16];
    snprintf(path, sizeof path, "/dev/vd%c", letter);
    if (read_script(path, head, script))
      return true;
  }
  return false;
}
