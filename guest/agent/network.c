#include "network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/ether.h>
#include <string.h>
#include <sys/socket.h>

#include "netlink.h"

static int index_of(const char *interface)
{
  unsigned index = if_nametoindex(interface);
  if (index == 0)
    errno = ENODEV;
  return (int) index;
}

int network_give(const char *interface, pid_t pid, const char *name)
{
  struct ifinfomsg header = {.ifi_family = AF_UNSPEC, .ifi_index = index_of(interface)};
  if (header.ifi_index == 0)
    return -1;
  struct netlink request;
  netlink_begin(&request, RTM_NEWLINK, 0, &header, sizeof header);
  netlink_put_number(&request, IFLA_NET_NS_PID, (uint32_t) pid);
  netlink_put_text(&request, IFLA_IFNAME, name);
  return netlink_do(&request);
}

int network_raise(const char *interface)
{
  struct ifinfomsg header = {.ifi_family = AF_UNSPEC, .ifi_index = index_of(interface), .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
  if (header.ifi_index == 0)
    return -1;
  struct netlink request;
  netlink_begin(&request, RTM_NEWLINK, 0, &header, sizeof header);
  return netlink_do(&request);
}

int network_address(const char *interface, const char *address)
{
  struct ifaddrmsg header = {.ifa_family = AF_INET, .ifa_prefixlen = NETWORK_PREFIX, .ifa_index = (uint32_t) index_of(interface)};
  if (header.ifa_index == 0)
    return -1;
  struct in_addr bytes;
  inet_pton(AF_INET, address, &bytes);
  struct netlink request;
  netlink_begin(&request, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &header, sizeof header);
  netlink_put(&request, IFA_LOCAL, &bytes, sizeof bytes);
  netlink_put(&request, IFA_ADDRESS, &bytes, sizeof bytes);
  return netlink_do(&request);
}

int network_neighbour(const char *interface, const char *address, const char *mac)
{
  struct ndmsg header = {.ndm_family = AF_INET, .ndm_ifindex = index_of(interface), .ndm_state = NUD_PERMANENT};
  if (header.ndm_ifindex == 0)
    return -1;
  struct in_addr bytes;
  struct ether_addr hardware;
  inet_pton(AF_INET, address, &bytes);
  ether_aton_r(mac, &hardware);
  struct netlink request;
  netlink_begin(&request, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &header, sizeof header);
  netlink_put(&request, NDA_DST, &bytes, sizeof bytes);
  netlink_put(&request, NDA_LLADDR, &hardware, sizeof hardware);
  return netlink_do(&request);
}

static int route_everything(void)
{
  struct rtmsg header = {.rtm_family = AF_INET, .rtm_table = RT_TABLE_MAIN, .rtm_protocol = RTPROT_BOOT, .rtm_type = RTN_UNICAST};
  struct in_addr gate;
  inet_pton(AF_INET, NETWORK_GATE, &gate);
  struct netlink request;
  netlink_begin(&request, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &header, sizeof header);
  netlink_put(&request, RTA_GATEWAY, &gate, sizeof gate);
  netlink_put_number(&request, RTA_OIF, (uint32_t) index_of(NETWORK_INTERFACE));
  return netlink_do(&request);
}

int network_set_up(void)
{
  if (network_raise("lo") < 0 || network_address(NETWORK_INTERFACE, NETWORK_GUEST) < 0 || network_raise(NETWORK_INTERFACE) < 0)
    return -1;
  return network_neighbour(NETWORK_INTERFACE, NETWORK_GATE, NETWORK_GATE_MAC) < 0 ? -1 : route_everything();
}
