#include "drives.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "leavings.h"
#include "util.h"

/* The new mount API, by number: C libraries before 2.36 have no names for it, and later ones clash with the kernel's headers. */
#define OPEN_TREE_CLONE_FLAG 1
#define MOVE_MOUNT_EMPTY_PATH_FLAG 4
#define MOUNT_IDMAP_FLAG 0x100000
#define EMPTY_PATH_FLAG 0x1000

struct mount_attributes
{
  uint64_t set, clear, propagation, user_namespace;
};

/* How often another process may take the free device first. */
#define LOOP_TRIES 64

static void directory(const char *path, mode_t mode, uid_t owner, const char *stage)
{
  if (mkdir(path, mode) < 0) {
    if (errno == EEXIST)
      return;
    fault(stage, "mkdir %s", path);
  }
  if (chown(path, owner, owner) < 0 || chmod(path, mode) < 0)
    fault(stage, "chown %s", path);
}

/* Mounts a file through a loop device that goes away with the mount. */
static void mount_loop(const char *file, const char *target, const char *type, unsigned long flags, const char *options,
                       const char *stage)
{
  bool readable_only = (flags & MS_RDONLY) != 0;
  int backing = open(file, (readable_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
  if (backing < 0)
    fault(stage, "open %s", file);
  int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
  if (control < 0)
    fault(SETUP, "open /dev/loop-control");
  for (int tries = 0; tries < LOOP_TRIES; tries += 1) {
    int number = ioctl(control, LOOP_CTL_GET_FREE);
    if (number < 0)
      fault(SETUP, "find a free loop device");
    char device[32];
    snprintf(device, sizeof device, "/dev/loop%d", number);
    int loop = open(device, (readable_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
    if (loop < 0)
      fault(SETUP, "open %s", device);
    struct loop_config config = {.fd = (uint32_t) backing};
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR | (readable_only ? LO_FLAGS_READ_ONLY : 0);
    if (ioctl(loop, LOOP_CONFIGURE, &config) == 0) {
      if (mount(device, target, type, flags, options) < 0)
        fault(stage, "mount %s as %s", target, type);
      close(loop);
      close(control);
      close(backing);
      return;
    }
    if (errno != EBUSY)
      fault(SETUP, "set up %s", device);
    close(loop);
  }
  errno = EBUSY;
  fault(SETUP, "find a free loop device");
}

/* From Linux 6.12 on, erofs mounts a file itself; before, through a loop device. The container sees the source's name, which is no path of the host. */
static void mount_erofs(const char *file, const char *target)
{
  const unsigned long flags = MS_RDONLY | MS_NOSUID | MS_NODEV;
  static const char source[] = "drive";
  if (mkdir(target, 0755) < 0 || symlink(file, source) < 0)
    fault(SETUP, "mkdir %s", target);
  if (mount(source, target, "erofs", flags, NULL) < 0) {
    if (errno != ENOTBLK)
      fault(IMAGE, "mount %s as erofs", target);
    mount_loop(file, target, "erofs", flags, NULL, IMAGE);
  }
  if (unlink(source) < 0)
    fault(SETUP, "unlink %s", source);
}

/* Mounts `from` again on `to`, with its owners mapped into the user namespace. */
static void mount_mapped(const char *from, const char *to, int user_namespace)
{
  if (mkdir(to, 0755) < 0)
    fault(SETUP, "mkdir %s", to);
  int tree = (int) syscall(SYS_open_tree, AT_FDCWD, from, OPEN_TREE_CLONE_FLAG | O_CLOEXEC);
  if (tree < 0)
    fault(SETUP, "open_tree %s", from);
  struct mount_attributes attributes = {.set = MOUNT_IDMAP_FLAG, .user_namespace = (uint64_t) user_namespace};
  if (syscall(SYS_mount_setattr, tree, "", EMPTY_PATH_FLAG, &attributes, sizeof attributes) < 0)
    fault(SETUP, "map the ids of %s", from);
  if (syscall(SYS_move_mount, tree, "", AT_FDCWD, to, MOVE_MOUNT_EMPTY_PATH_FLAG) < 0)
    fault(SETUP, "move_mount %s", to);
  close(tree);
}

void mount_drives(const struct drives *drives)
{
  mount_erofs(drives->image, "image");
  mount_mapped("image", "mapped", drives->user_namespace);
  mount_erofs(drives->code, "archive");
  mount_mapped("archive", "code", drives->user_namespace);

  if (mkdir("scratch", 0700) < 0 || mkdir("rootfs", 0755) < 0)
    fault(SETUP, "mkdir the root's directories");
  /* Scratch dies with the sandbox: nothing in it needs to survive a crash. */
  mount_loop(drives->scratch, "scratch", "ext4", MS_NOSUID | MS_NODEV | MS_NOATIME, "nobarrier", SETUP);
  directory("scratch/upper", 0755, drives->base, SETUP);
  directory("scratch/inner", 0755, drives->base, SETUP);
  if (exchange_make("scratch/exchange", drives->base) < 0)
    fault(SETUP, "make the exchange directory");
  if (mount("overlay", "rootfs", "overlay", MS_NOSUID | MS_NODEV,
            "lowerdir=mapped,upperdir=scratch/upper,workdir=scratch/inner,volatile") < 0)
    fault(IMAGE, "mount the writable layer");
  directory("rootfs/work", 0755, drives->base, IMAGE);
  directory("rootfs/tmp", 01777, drives->base, IMAGE);
}
