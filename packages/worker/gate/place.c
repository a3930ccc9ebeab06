#include "place.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <netinet/ether.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "control.h"
#include "netlink.h"
#include "network.h"
#include "util.h"

#define BACKLOG 128
#define TEXT(number) TEXT_OF(number)
#define TEXT_OF(number) #number

/*
 * What may come from the guest: TCP to anywhere, which is taken here whatever its address; questions to the name server; and who asks for the
 * gate's hardware address. Not what is in pieces, has options, or names another sender. What waits for its first answer costs memory, so it is counted.
 */
static const char RULES[] =
  "table netdev gate {\n"
  " chain arrives {\n"
  "  type filter hook ingress device \"" GATE_INTERFACE "\" priority -500; policy drop;\n"
  "  ether saddr != " NETWORK_GUEST_MAC " drop\n"
  "  ether type arp arp operation request arp saddr ether " NETWORK_GUEST_MAC " arp saddr ip " NETWORK_GUEST " arp daddr ip " NETWORK_GATE
  " limit rate 50/second burst 50 packets accept\n"
  "  ether daddr != " NETWORK_GATE_MAC " drop\n"
  "  ether type != ip drop\n"
  "  ip saddr != " NETWORK_GUEST " drop\n"
  "  ip hdrlength != 5 drop\n"
  "  ip frag-off & 0x3fff != 0 drop\n"
  "  ip protocol tcp tcp flags & (syn | ack) == syn limit rate over 200/second burst 400 packets drop\n"
  "  ip protocol tcp accept\n"
  "  ip daddr " NETWORK_GATE " udp dport " TEXT(NAMES_PORT) " accept\n"
  " }\n"
  "}\n"
  "table ip gate {\n"
  " chain arrives {\n"
  "  type filter hook prerouting priority mangle; policy drop;\n"
  "  iifname \"" GATE_INTERFACE "\" meta l4proto tcp tproxy to :" TEXT(GATE_PORT) " accept\n"
  "  iifname \"" GATE_INTERFACE "\" ip daddr " NETWORK_GATE " udp dport " TEXT(NAMES_PORT) " accept\n"
  " }\n"
  " chain passes {\n"
  "  type filter hook forward priority filter; policy drop;\n"
  " }\n"
  " chain leaves {\n"
  "  type filter hook output priority filter; policy drop;\n"
  "  oifname \"" GATE_INTERFACE "\" ip daddr " NETWORK_GUEST " meta l4proto { tcp, udp } accept\n"
  " }\n"
  "}\n";

/* Of this namespace alone. Some would be as on the host otherwise; buffers are small because the wire is short. */
static const struct
{
  const char *name, *value;
} SETTINGS[] = {
  {"ipv4/ip_forward", "0"},
  {"ipv4/conf/all/rp_filter", "1"},
  {"ipv4/conf/all/accept_source_route", "0"},
  {"ipv4/conf/all/accept_redirects", "0"},
  {"ipv4/conf/all/send_redirects", "0"},
  {"ipv4/conf/all/route_localnet", "0"},
  {"ipv4/conf/all/arp_ignore", "1"},
  {"ipv4/conf/all/arp_accept", "0"},
  {"ipv4/tcp_rmem", "4096 65536 524288"},
  {"ipv4/tcp_wmem", "4096 65536 524288"},
  {"ipv6/conf/all/disable_ipv6", "1"},
  {"ipv6/conf/default/disable_ipv6", "1"},
};

static void settle(void)
{
  for (size_t at = 0; at < sizeof SETTINGS / sizeof *SETTINGS; at += 1) {
    char path[96];
    snprintf(path, sizeof path, "/proc/sys/net/%s", SETTINGS[at].name);
    /* A kernel without IPv6 has none to turn off. */
    if (write_file(path, SETTINGS[at].value) < 0 && errno != ENOENT)
      give_up("set %s", path);
  }
}

static void make_tap(uid_t owner)
{
  scoped_fd tun = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
  struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
  strcpy(request.ifr_name, GATE_INTERFACE);
  if (tun < 0 || ioctl(tun, TUNSETIFF, &request) < 0)
    give_up("make a tap by /dev/net/tun");
  if (ioctl(tun, TUNSETOWNER, (unsigned long) owner) < 0 || ioctl(tun, TUNSETPERSIST, 1UL) < 0)
    give_up("give the tap away");
}

static void put_mac(struct netlink *request, const char *mac)
{
  struct ether_addr hardware;
  ether_aton_r(mac, &hardware);
  netlink_put(request, IFLA_ADDRESS, &hardware, sizeof hardware);
}

static void make_pair(void)
{
  struct netlink request;
  const struct ifinfomsg header = {.ifi_family = AF_UNSPEC};
  netlink_begin(&request, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &header, sizeof header);
  netlink_put_text(&request, IFLA_IFNAME, GATE_INTERFACE);
  struct nlattr *info = netlink_nest(&request, IFLA_LINKINFO);
  netlink_put_text(&request, IFLA_INFO_KIND, "veth");
  struct nlattr *data = netlink_nest(&request, IFLA_INFO_DATA);
  struct nlattr *peer = netlink_nest(&request, VETH_INFO_PEER);
  netlink_put_bare(&request, &header, sizeof header);
  netlink_put_text(&request, IFLA_IFNAME, GUEST_INTERFACE);
  put_mac(&request, NETWORK_GUEST_MAC);
  netlink_end(&request, peer);
  netlink_end(&request, data);
  netlink_end(&request, info);
  if (netlink_do(&request) < 0)
    give_up("make a pair of virtual interfaces");
}

static void name_hardware(void)
{
  struct netlink request;
  const struct ifinfomsg header = {.ifi_family = AF_UNSPEC, .ifi_index = (int) if_nametoindex(GATE_INTERFACE)};
  netlink_begin(&request, RTM_NEWLINK, 0, &header, sizeof header);
  put_mac(&request, NETWORK_GATE_MAC);
  if (netlink_do(&request) < 0)
    give_up("set the gate's hardware address");
}

/* Every address that is not the guest's is this namespace's own. */
static void own_every_address(void)
{
  const struct rtmsg header = {.rtm_family = AF_INET, .rtm_table = RT_TABLE_MAIN, .rtm_protocol = RTPROT_BOOT, .rtm_scope = RT_SCOPE_HOST, .rtm_type = RTN_LOCAL};
  struct netlink request;
  netlink_begin(&request, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &header, sizeof header);
  netlink_put_number(&request, RTA_OIF, if_nametoindex("lo"));
  if (netlink_do(&request) < 0)
    give_up("route every address to the gate");
}

/* Loads the rules with the host's own nft, which takes all of them or none. */
static void load_rules(void)
{
  int text[2], said[2];
  if (pipe2(text, O_CLOEXEC) < 0 || pipe2(said, O_CLOEXEC) < 0)
    give_up("pipe");
  pid_t child = fork();
  if (child < 0)
    give_up("fork");
  if (child == 0) {
    char *environment[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL};
    char *const arguments[] = {"nft", "-f", "-", NULL};
    dup2(text[0], STDIN_FILENO);
    dup2(said[1], STDERR_FILENO);
    /* It is looked for where the environment says. */
    environ = environment;
    execvp("nft", arguments);
    dprintf(STDERR_FILENO, "%s", strerror(errno));
    _exit(127);
  }
  close(text[0]);
  close(said[1]);
  /* They are shorter than a pipe. */
  bool given = RETRY(write(text[1], RULES, strlen(RULES))) == (long) strlen(RULES);
  close(text[1]);
  char answer[256] = "";
  long length = RETRY(read(said[0], answer, sizeof answer - 1));
  answer[length < 0 ? 0 : strcspn(answer, "\n")] = '\0';
  close(said[0]);
  int status;
  errno = 0;
  if (RETRY(waitpid(child, &status, 0)) != child || status != 0 || !given)
    give_up("nft does not take the rules (%s)", answer);
}

static int listen_for_connections(void)
{
  const int yes = 1;
  const struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(GATE_PORT)};
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0 || setsockopt(fd, SOL_IP, IP_TRANSPARENT, &yes, sizeof yes) < 0 ||
      bind(fd, (const struct sockaddr *) &address, sizeof address) < 0 || listen(fd, BACKLOG) < 0)
    give_up("listen for connections");
  return fd;
}

static int listen_for_names(void)
{
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(NAMES_PORT)};
  inet_pton(AF_INET, NETWORK_GATE, &address.sin_addr);
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0 || bind(fd, (const struct sockaddr *) &address, sizeof address) < 0)
    give_up("listen for questions of names");
  return fd;
}

static void lay_wire(bool tap, uid_t owner)
{
  if (tap)
    make_tap(owner);
  else
    make_pair();
  name_hardware();
  if (network_raise("lo") < 0 || network_address(GATE_INTERFACE, NETWORK_GATE) < 0)
    give_up("give the gate its address");
}

struct place place_make(bool tap, uid_t owner, int namespace)
{
  scoped_fd host = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  if (host < 0 || unshare(CLONE_NEWNET) < 0)
    give_up("make a network namespace");
  scoped_fd made = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  if (made < 0 || dup3(made, namespace, O_CLOEXEC) < 0)
    give_up("hold the network namespace");
  settle();
  lay_wire(tap, owner);
  /* Before anything can arrive. */
  load_rules();
  if (network_raise(GATE_INTERFACE) < 0 || network_neighbour(GATE_INTERFACE, NETWORK_GUEST, NETWORK_GUEST_MAC) < 0)
    give_up("raise the gate's interface");
  own_every_address();
  struct place place = {.connections = listen_for_connections(), .names = listen_for_names()};
  if (setns(host, CLONE_NEWNET) < 0)
    give_up("return to the host's network namespace");
  return place;
}
