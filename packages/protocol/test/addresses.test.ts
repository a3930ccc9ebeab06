import assert from 'node:assert/strict';
import { BlockList, isIPv4, isIPv6 } from 'node:net';
import { test } from 'node:test';
import { formatIpv4, isPublicAddress, isWithin, NOT_PUBLIC_V4, parseIpv4, parseIpv4Subnet } from '../src/addresses.ts';

test('addresses that are not one host on the public internet, are known', () => {
  const closed = [
    ...['0.0.0.0', '10.1.2.3', '100.64.0.1', '100.127.255.255', '127.0.0.1', '127.255.255.255', '169.254.169.254'],
    ...['172.16.0.1', '172.31.255.255', '192.0.0.1', '192.0.2.1', '192.168.1.1', '198.18.0.1', '198.19.255.255'],
    ...['198.51.100.1', '203.0.113.1', '224.0.0.1', '239.255.255.255', '240.0.0.1', '255.255.255.255'],
    ...['::', '::1', '::ffff:8.8.8.8', '::ffff:127.0.0.1', '::8.8.8.8', 'fe80::1', 'fe80::1%eth0', 'fec0::1'],
    ...['fc00::1', 'fd00::1', 'ff02::1', '64:ff9b::8.8.8.8', '64:ff9b:1::1', '100::1', '2001::1', '2001:db8::1'],
    ...['2002:7f00:1::', '2002:808:808::1', '3fff::1', '4000::1', '', 'example.org', '8.8.8', '0x7f.1', '2130706433'],
  ];
  for (const address of closed) assert.equal(isPublicAddress(address), false, address);
  const open = [
    '1.1.1.1',
    '8.8.8.8',
    '100.63.0.1',
    '100.128.0.1',
    '172.15.0.1',
    '172.32.0.1',
    '192.167.1.1',
    '223.255.255.1',
  ];
  for (const address of [...open, '2606:4700::1111', '2a00:1450::1', '2001:4860:4860::8888']) {
    assert.equal(isPublicAddress(address), true, address);
  }
});

test('addresses as text, what Node takes is read alike and nothing else is', () => {
  const texts = [
    ...['1.2.3.4', '01.2.3.4', '1.2.3', '1.2.3.256', '255.255.255.255', ' 1.2.3.4', '1.2.3.4.', '1.2.3.4/8'],
    ...['2606:4700::', '2606:4700::1:2:3:4:5', '2606:4700:1:2:3:4:5:6', '2606:4700:1:2:3:4:5:6:7', '2606:4700:::1'],
    ...['2606::4700::1', '2606:4700::g', '2606:47001::1', ':2606:4700::1', '2606:4700::1:', '2606:4700::1.2.3.4'],
  ];
  for (const text of texts)
    assert.equal(isPublicAddress(text) || /^255/.test(text), isIPv4(text) || isIPv6(text), text);
});

test('subnets, what is within is what Node says', () => {
  for (const text of [...NOT_PUBLIC_V4, '0.0.0.0/0', '1.2.3.4', '1.2.3.4/31', '128.0.0.0/1']) {
    const subnet = parseIpv4Subnet(text)!;
    const list = new BlockList();
    list.addSubnet(formatIpv4(subnet.base), subnet.prefix, 'ipv4');
    const size = 2 ** (32 - subnet.prefix);
    for (const address of [subnet.base - 1, subnet.base, subnet.base + size - 1, subnet.base + size]) {
      if (address < 0 || address >= 2 ** 32) continue;
      const dotted = formatIpv4(address);
      assert.equal(parseIpv4(dotted), address);
      assert.equal(isWithin(subnet, address), list.check(dotted, 'ipv4'), `${dotted} in ${text}`);
    }
  }
  for (const text of ['', '1.2.3.4/0', '10.0.0.1/8', '10.0.0.0/33', '10.0.0.0/08', '10.0.0.0/', '::/0', '10/8']) {
    assert.equal(parseIpv4Subnet(text), null, text);
  }
});
