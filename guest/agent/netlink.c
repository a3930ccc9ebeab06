#include "netlink.h"

#include <errno.h>
#include <linux/rtnetlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "util.h"

static struct nlmsghdr *message(struct netlink *request)
{
  return (struct nlmsghdr *) request->bytes;
}

static void *reserve(struct netlink *request, size_t size)
{
  struct nlmsghdr *header = message(request);
  size_t at = NLMSG_ALIGN(header->nlmsg_len);
  if (at + size > sizeof request->bytes)
    abort();
  header->nlmsg_len = (uint32_t) (at + size);
  return request->bytes + at;
}

void netlink_begin(struct netlink *request, uint16_t type, uint16_t flags, const void *header, size_t size)
{
  memset(request, 0, sizeof *request);
  *message(request) = (struct nlmsghdr){.nlmsg_len = NLMSG_HDRLEN, .nlmsg_type = type, .nlmsg_flags = flags | NLM_F_REQUEST | NLM_F_ACK};
  netlink_put_bare(request, header, size);
}

void netlink_put_bare(struct netlink *request, const void *bytes, size_t size)
{
  memcpy(reserve(request, size), bytes, size);
}

void netlink_put(struct netlink *request, uint16_t type, const void *value, size_t size)
{
  struct nlattr *attribute = reserve(request, NLA_HDRLEN + size);
  *attribute = (struct nlattr){.nla_len = (uint16_t) (NLA_HDRLEN + size), .nla_type = type};
  if (size > 0)
    memcpy((unsigned char *) attribute + NLA_HDRLEN, value, size);
}

void netlink_put_text(struct netlink *request, uint16_t type, const char *text)
{
  netlink_put(request, type, text, strlen(text) + 1);
}

void netlink_put_number(struct netlink *request, uint16_t type, uint32_t number)
{
  netlink_put(request, type, &number, sizeof number);
}

struct nlattr *netlink_nest(struct netlink *request, uint16_t type)
{
  struct nlattr *nest = reserve(request, NLA_HDRLEN);
  *nest = (struct nlattr){.nla_len = NLA_HDRLEN, .nla_type = type};
  return nest;
}

void netlink_end(struct netlink *request, struct nlattr *nest)
{
  nest->nla_len = (uint16_t) (request->bytes + message(request)->nlmsg_len - (unsigned char *) nest);
}

int netlink_do(struct netlink *request)
{
  scoped_fd kernel = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
  const struct nlmsghdr *header = message(request);
  if (kernel < 0 || RETRY(send(kernel, header, header->nlmsg_len, 0)) < 0)
    return -1;
  struct netlink answer;
  const struct nlmsghdr *answered = message(&answer);
  const struct nlmsgerr *error = NLMSG_DATA(answered);
  if (RETRY(recv(kernel, answer.bytes, sizeof answer.bytes, 0)) < (long) NLMSG_LENGTH(sizeof *error) || answered->nlmsg_type != NLMSG_ERROR) {
    errno = EPROTO;
    return -1;
  }
  errno = -error->error;
  return errno == 0 ? 0 : -1;
}
