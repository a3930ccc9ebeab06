/*
 * Requests to the kernel about interfaces and routes of this process's network namespace.
 *
 * Shared with the launcher of containers and the gate (packages/worker).
 */
#ifndef COCORE_NETLINK_H
#define COCORE_NETLINK_H

#include <linux/netlink.h>
#include <stddef.h>
#include <stdint.h>

/* One request that is being put together. It is for a few attributes: more than fit are a fault of the caller's, and end the process. */
struct netlink
{
  _Alignas(NLMSG_ALIGNTO) unsigned char bytes[512];
};

/* Begins a request of this type with what every such request begins with. */
void netlink_begin(struct netlink *request, uint16_t type, uint16_t flags, const void *header, size_t size);

void netlink_put(struct netlink *request, uint16_t type, const void *value, size_t size);
/* Bytes as they are, for what has a header of its own within an attribute. */
void netlink_put_bare(struct netlink *request, const void *bytes, size_t size);
void netlink_put_text(struct netlink *request, uint16_t type, const char *text);
void netlink_put_number(struct netlink *request, uint16_t type, uint32_t number);

/* What is put until the end is within this attribute. */
struct nlattr *netlink_nest(struct netlink *request, uint16_t type);
void netlink_end(struct netlink *request, struct nlattr *nest);

/* Sends it and waits for the kernel's answer. Returns 0, or -1 with errno. */
int netlink_do(struct netlink *request);

#endif
