#include "mounts.h"
#include "drives.h"
#include "leavings.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/virtio_ids.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

/* The new mount API, by number: C libraries before 2.36 have no names for it, and later ones clash with the kernel's headers. */
#define OPEN_TREE_CLONE_FLAG 1
#define MOVE_MOUNT_EMPTY_PATH_FLAG 4
#define MOUNT_IDMAP_FLAG 0x100000
#define EMPTY_PATH_FLAG 0x1000

struct mount_attributes
{
  uint64_t set;
  uint64_t clear;
  uint64_t propagation;
  uint64_t user_namespace;
};

static int mount_at(const char *source, const char *target, const char *type, unsigned long flags,
                    const char *options, enum stage stage, struct fault *fault)
{
  if (mkdir(target, 0755) < 0 && errno != EEXIST)
    return fail(fault, stage, errno, "mkdir %s", target);
  if (mount(source, target, type, flags, options) < 0)
    return fail(fault, stage, errno, "mount %s on %s", source, target);
  return 0;
}

static int insert_module(const char *path, struct fault *fault)
{
  scoped_fd fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return fail(fault, STAGE_SETUP, errno, "open %s", path);
  if (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST)
    return fail(fault, STAGE_SETUP, errno, "finit_module %s", path);
  return 0;
}

/* The list names a path a line, dependencies first; no list means that everything is built into the kernel. */
int insert_modules(const char *list, struct fault *fault)
{
  char paths[8192];
  if (read_file(list, paths, sizeof paths) < 0)
    return errno == ENOENT ? 0 : fail(fault, STAGE_SETUP, errno, "read %s", list);
  char *rest = paths;
  for (char *path = strsep(&rest, "\n"); path != NULL; path = strsep(&rest, "\n"))
    if (*path != '\0' && insert_module(path, fault) < 0)
      return -1;
  return 0;
}

bool has_network_card(void)
{
  DIR *devices = opendir("/sys/bus/virtio/devices");
  if (devices == NULL)
    return false;
  bool found = false;
  for (struct dirent *entry = readdir(devices); entry != NULL && !found; entry = readdir(devices)) {
    char path[300], value[16];
    snprintf(path, sizeof path, "/sys/bus/virtio/devices/%s/device", entry->d_name);
    found = read_file(path, value, sizeof value) > 0 && strtol(value, NULL, 16) == VIRTIO_ID_NET;
  }
  closedir(devices);
  return found;
}

int guest_set_up(struct fault *fault)
{
  const unsigned long quiet = MS_NOSUID | MS_NODEV | MS_NOEXEC;
  /*
   * A root made of the initramfs cannot be pivoted away from, which is what crun does. A bind mount of it, moved over it, can; nothing is copied.
   */
  if (mount_at("/", "/newroot", NULL, MS_BIND, NULL, STAGE_SETUP, fault) < 0)
    return -1;
  if (chdir("/newroot") < 0 || mount("/newroot", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
    return fail(fault, STAGE_SETUP, errno, "leave the initramfs");
  if (mount_at("proc", "/proc", "proc", quiet, NULL, STAGE_SETUP, fault) < 0 ||
      mount_at("sysfs", "/sys", "sysfs", quiet, NULL, STAGE_SETUP, fault) < 0 ||
      mount_at("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, NULL, STAGE_SETUP, fault) < 0 ||
      mount_at("cgroup2", "/sys/fs/cgroup", "cgroup2", quiet, NULL, STAGE_SETUP, fault) < 0 ||
      mount_at("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755", STAGE_SETUP, fault) < 0)
    return -1;
  return insert_modules("/lib/modules/load-order", fault);
}

/* Finds a drive by the order on the kernel's command line, or else by its serial number. Returns 0, 1 when there is none, or -1. */
static int find_drive(const char *serial, char *path, size_t size)
{
  char line[4096];
  if (read_file("/proc/cmdline", line, sizeof line) < 0)
    return -1;
  int by_order = drive_by_order(line, serial, path, size);
  if (by_order >= 0)
    return by_order;
  DIR *devices = opendir("/sys/block");
  if (devices == NULL)
    return -1;
  int found = 1;
  for (struct dirent *entry = readdir(devices); entry != NULL && found == 1; entry = readdir(devices)) {
    char name[300], value[64];
    snprintf(name, sizeof name, "/sys/block/%s/serial", entry->d_name);
    if (read_file(name, value, sizeof value) < 0)
      continue;
    value[strcspn(value, "\n")] = '\0';
    if (strcmp(value, serial) != 0)
      continue;
    snprintf(path, size, "/dev/%s", entry->d_name);
    found = 0;
  }
  closedir(devices);
  return found;
}

/*
 * Mounts a drive. What the kernel holds of it is let go first: it may have read (the search for partitions does) what was there before
 * the guest was restored with another file.
 */
static int mount_drive(const char *drive, const char *target, const char *type, unsigned long flags, const char *options,
                       enum stage stage, struct fault *fault)
{
  scoped_fd fd = open(drive, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return fail(fault, stage, errno, "open %s", drive);
  if (ioctl(fd, BLKFLSBUF, 0) < 0)
    return fail(fault, stage, errno, "flush %s", drive);
  close_fd(&fd);
  return mount_at(drive, target, type, flags, options, stage, fault);
}

/* Mounts `from` again on `to`, with its owners mapped into the user namespace. */
static int mount_mapped(const char *from, const char *to, int user_namespace, struct fault *fault)
{
  if (mkdir(to, 0755) < 0)
    return fail(fault, STAGE_IMAGE, errno, "mkdir %s", to);
  scoped_fd tree = (int) syscall(SYS_open_tree, AT_FDCWD, from, OPEN_TREE_CLONE_FLAG | O_CLOEXEC);
  if (tree < 0)
    return fail(fault, STAGE_IMAGE, errno, "open_tree %s", from);
  struct mount_attributes attributes = {.set = MOUNT_IDMAP_FLAG, .user_namespace = (uint64_t) user_namespace};
  if (syscall(SYS_mount_setattr, tree, "", EMPTY_PATH_FLAG, &attributes, sizeof attributes) < 0)
    return fail(fault, STAGE_IMAGE, errno, "mount_setattr %s", from);
  if (syscall(SYS_move_mount, tree, "", AT_FDCWD, to, MOVE_MOUNT_EMPTY_PATH_FLAG) < 0)
    return fail(fault, STAGE_IMAGE, errno, "move_mount %s", to);
  return 0;
}

/* A directory of the container's root, made unless the image brought one. */
static int container_directory(const char *path, mode_t mode, struct fault *fault)
{
  if (mkdir(path, mode) < 0) {
    if (errno == EEXIST)
      return 0;
    return fail(fault, STAGE_IMAGE, errno, "mkdir %s", path);
  }
  if (chown(path, CONTAINER_ID, CONTAINER_ID) < 0 || chmod(path, mode) < 0)
    return fail(fault, STAGE_IMAGE, errno, "chown %s", path);
  return 0;
}

int task_mount(int user_namespace, struct fault *fault)
{
  char drive[300];
  if (find_drive("rootfs", drive, sizeof drive) != 0)
    return fail(fault, STAGE_IMAGE, 0, "there is no drive with the serial rootfs");
  if (mount_drive(drive, "/run/fn/image", "erofs", MS_RDONLY | MS_NOSUID | MS_NODEV, NULL, STAGE_IMAGE, fault) < 0 ||
      mount_mapped("/run/fn/image", "/run/fn/mapped", user_namespace, fault) < 0)
    return -1;

  if (find_drive("scratch", drive, sizeof drive) != 0)
    return fail(fault, STAGE_SETUP, 0, "there is no drive with the serial scratch");
  /* Scratch dies with the microVM: nothing in it needs to survive a crash. */
  if (mount_drive(drive, "/run/fn/scratch", "ext4", MS_NOSUID | MS_NODEV | MS_NOATIME, "nobarrier", STAGE_SETUP, fault) < 0 ||
      container_directory("/run/fn/scratch/upper", 0755, fault) < 0 ||
      container_directory("/run/fn/scratch/inner", 0755, fault) < 0)
    return -1;
  if (exchange_make(EXCHANGE, CONTAINER_ID) < 0)
    return fail(fault, STAGE_SETUP, errno, "make " EXCHANGE);
  if (mount_at("overlay", "/run/fn/rootfs", "overlay", MS_NOSUID | MS_NODEV,
               "lowerdir=/run/fn/mapped,upperdir=/run/fn/scratch/upper,workdir=/run/fn/scratch/inner,volatile", STAGE_IMAGE,
               fault) < 0 ||
      container_directory("/run/fn/rootfs/work", 0755, fault) < 0 ||
      container_directory("/run/fn/rootfs/tmp", 01777, fault) < 0)
    return -1;

  int found = find_drive("code", drive, sizeof drive);
  if (found < 0)
    return fail(fault, STAGE_IMAGE, errno, "look for the drive with the serial code");
  if (found > 0)
    return 0;
  if (mount_drive(drive, "/run/fn/archive", "erofs", MS_RDONLY | MS_NOSUID | MS_NODEV, NULL, STAGE_IMAGE, fault) < 0)
    return -1;
  return mount_mapped("/run/fn/archive", "/run/fn/code", user_namespace, fault);
}
