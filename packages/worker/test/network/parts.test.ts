import { formatIpv4, NOT_PUBLIC_V4, parseIpv4 } from '@cocore/protocol';
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { parseCommand } from '../../src/config.ts';
import { AllowList } from '../../src/network/allow-list.ts';
import { answerTo, parseQuestion } from '../../src/network/dns-message.ts';
import { NAME_LIMITS, NameServer } from '../../src/network/name-server.ts';
import { OwnAddresses, parseFibTrie } from '../../src/network/own-addresses.ts';
import { probeNetwork } from '../../src/network/probe.ts';
import { Pins } from '../../src/network/pins.ts';

const address = (text: string) => parseIpv4(text)!;

/** A question as a resolver sends it. */
function questionOf(name: string, type = 1): Buffer {
  const labels = name.split('.').filter((label) => label !== '');
  return Buffer.concat([
    Buffer.from([0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
    ...labels.flatMap((label) => [Buffer.from([label.length]), Buffer.from(label, 'latin1')]),
    Buffer.from([0, 0, type, 0, 1]),
  ]);
}

const codeOf = (answer: Buffer | null) => answer![3]! & 15;

test('the gate’s own table, it is the protocol’s', () => {
  const source = readFileSync(new URL('../../gate/addresses.c', import.meta.url), 'utf8');
  const entries = [...source.matchAll(/\{IPV4\((\d+), (\d+), (\d+), (\d+)\), (\d+)\}/g)];
  assert.deepEqual(
    entries.map(([, a, b, c, d, prefix]) => `${a}.${b}.${c}.${d}/${prefix}`),
    NOT_PUBLIC_V4,
  );
});

test('where the sandbox’s name server is, daemon and guest say the same', () => {
  const header = readFileSync(new URL('../../../../guest/agent/network.h', import.meta.url), 'utf8');
  const of = (name: string) => new RegExp(`#define ${name} "([^"]+)"`).exec(header)![1]!;
  const read = (path: string) => readFileSync(new URL(path, import.meta.url), 'utf8');
  assert.ok(read('../../src/network/egress.ts').includes(`nameserver ${of('NETWORK_GATE')}\\n`));
  assert.ok(read('../../src/sandbox/driver.ts').includes(`GUEST_MAC = '${of('NETWORK_GUEST_MAC')}'`));
});

test('a list, names and addresses on it are known with their ports, and no others', () => {
  const list = new AllowList([
    'example.org',
    'example.org:443',
    '*.example.net:80',
    '*.example.net:8080',
    '1.2.3.0/24:53',
    '5.6.7.8',
  ]);
  assert.equal(list.portsOfName('example.org'), null, 'one entry without a port is all ports');
  assert.deepEqual(list.portsOfName('a.b.example.net'), new Set([80, 8080]));
  for (const name of [
    'example.net',
    'xexample.net',
    'example.org.',
    'a.example.org',
    '',
    'org',
    '1.2.3.4',
    'example.org\u0000',
  ]) {
    assert.equal(list.portsOfName(name), undefined, name);
  }
  assert.deepEqual(
    ['1.2.3.4:53', '1.2.3.4:54', '1.2.4.4:53', '5.6.7.8:9', '5.6.7.9:9'].map((text) => {
      const [host, port] = text.split(':');
      return list.permitsAddress(address(host!), Number(port));
    }),
    [true, false, false, true, false],
  );
  const any = new AllowList(['*:443']);
  assert.deepEqual([any.portsOfName('example.org'), any.portsOfName('intranet')], [new Set([443]), undefined]);
  assert.ok(any.permitsAddress(address('1.2.3.4'), 443) && !any.permitsAddress(address('1.2.3.4'), 80));
  assert.equal(any.portsOfName('a.localhost'), undefined);
  assert.throws(() => new AllowList(['::1']), RangeError);
});

test('pins, an address has the ports of all names that lead to it, and memory is bounded', () => {
  const pins = new Pins();
  pins.add([1], new Set([80]));
  assert.deepEqual([pins.permits(1, 80), pins.permits(1, 443), pins.permits(2, 80)], [true, false, false]);
  pins.add([1], new Set([443]));
  assert.ok(pins.permits(1, 80) && pins.permits(1, 443));
  pins.add([1], null);
  assert.ok(pins.permits(1, 1));
  pins.add(
    Array.from({ length: 4095 }, (_, at) => at + 10),
    null,
  );
  assert.ok(pins.permits(1, 1) && pins.permits(10, 1));
  pins.add([2], null);
  assert.ok(!pins.permits(1, 1) && pins.permits(2, 1));
});

test('a question is read as it stands, and its answer repeats it', () => {
  const question = parseQuestion(questionOf('WWW.Example.org'))!;
  assert.deepEqual(
    [question.id, question.name, question.type, question.isRecursive],
    [0x1234, 'www.example.org', 1, true],
  );
  const answer = answerTo(question, 'ok', { addresses: [address('1.2.3.4'), address('5.6.7.8')], ttlSeconds: 9 });
  assert.equal(answer.readUInt16BE(2), 0x8180);
  assert.ok(answer.includes('Example'));
  assert.deepEqual([...answer.subarray(-4)], [5, 6, 7, 8]);
  const whole = questionOf('example.org');
  for (let length = 0; length < whole.length; length += 1) assert.equal(parseQuestion(whole.subarray(0, length)), null);
  // Packed, an answer, another operation, two questions, a label with a dot in it, a name that is too long.
  const packed = Buffer.concat([whole.subarray(0, 12), Buffer.from([0xc0, 12, 0, 1, 0, 1])]);
  const two = Buffer.from(whole).fill(2, 5, 6);
  const long = questionOf(Array.from({ length: 5 }, () => 'x'.repeat(60)).join('.'));
  const wrong = [packed, two, long, Buffer.from(whole).fill(0x81, 2, 3), Buffer.from(whole).fill(0x29, 2, 3)];
  for (const message of wrong) assert.equal(parseQuestion(message), null);
  assert.equal(parseQuestion(Buffer.from(whole).fill('.', 15, 16)), null);
});

test('names, each is asked once while its answer is kept, and only so many are asked', async () => {
  let nowMs = 1_000;
  const asked: string[] = [];
  const pins = new Pins();
  const refused: string[] = [];
  const server = new NameServer({
    allow: new AllowList(['*.example.org', 'down.example.net']),
    pins,
    resolve: (name) => {
      asked.push(name);
      if (name.startsWith('down')) return Promise.reject(new Error('down'));
      return Promise.resolve({ addresses: ['1.2.3.4', '10.0.0.9', 'none'], ttlSeconds: 1 });
    },
    isOpen: (one) => one !== address('10.0.0.9'),
    onRefused: (name) => refused.push(name),
    clock: () => nowMs,
  });
  const first = (await server.answer(questionOf('a.example.org')))!;
  assert.deepEqual([codeOf(first), first.readUInt16BE(6), [...first.subarray(-4)]], [0, 1, [1, 2, 3, 4]]);
  assert.ok(pins.permits(address('1.2.3.4'), 5) && !pins.permits(address('10.0.0.9'), 5));
  nowMs += 29_000;
  await server.answer(questionOf('A.example.org'));
  assert.deepEqual(asked, ['a.example.org']);
  nowMs += 2_000;
  await Promise.all([server.answer(questionOf('a.example.org')), server.answer(questionOf('a.example.org'))]);
  assert.equal(asked.length, 2);
  assert.equal(codeOf(await server.answer(questionOf('down.example.net'))), 2);
  assert.equal(codeOf(await server.answer(questionOf('example.com'))), 3);
  assert.deepEqual(refused, ['example.com']);
  for (let at = 0; at < 2 * NAME_LIMITS.names; at += 1) {
    nowMs += 1_000;
    await server.answer(questionOf(`n${at}.example.org`));
  }
  assert.ok(asked.length <= NAME_LIMITS.names + 1, `${asked.length}`);
  assert.equal(
    codeOf(await server.answer(questionOf('a.example.org'))),
    0,
    'a name that was asked before is asked again',
  );
  let answered = 0;
  for (let at = 0; at < 500; at += 1) if ((await server.answer(questionOf('a.example.org'))) !== null) answered += 1;
  assert.ok(answered <= NAME_LIMITS.burst, `${answered}`);
});

test('this host’s own addresses and networks, they are what its routes say', () => {
  const text = `Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
        /1 link UNICAST
     |-- 45.9.8.0
        /24 universe UNICAST
     |-- 81.2.69.128
        /28 link UNICAST
     |-- 81.2.69.142
        /32 host LOCAL
     |-- 81.2.69.143
        /32 link BROADCAST
`;
  assert.deepEqual(
    parseFibTrie(text).map(({ base, prefix }) => `${formatIpv4(base)}/${prefix}`),
    ['81.2.69.128/28', '81.2.69.142/32'],
  );
  assert.ok(new OwnAddresses().includes(address('127.0.0.1')));
  assert.throws(() => new OwnAddresses('/nonexistent').includes(1));
});

test('a host without tun, the check says so, and what to do', async () => {
  const checks = await probeNetwork(undefined, '/nowhere/tun');
  const { ok, reason, remedy } = checks.find(({ name }) => name === 'tun')!;
  assert.equal(ok, false);
  assert.match(reason, /^\/nowhere\/tun may not be opened: ENOENT/);
  assert.match(remedy!, /modprobe tun/);
  assert.ok(!checks.some(({ name }) => name.startsWith('network by')), 'no gate is tried in vain');
});

test('a worker’s settings for egress, only what is meant is taken', () => {
  const of = (args: string[], env: NodeJS.ProcessEnv = {}) => {
    const command = parseCommand(['--server', 'http://127.0.0.1:1', '--data-dir', '/tmp/x', ...args], env);
    return command.verb === 'run' ? command.config.egress : assert.fail();
  };
  assert.equal(of([]), null);
  const [on, auto] = [true, false].map((isRequired) => ({ proxy: null, isRequired }));
  for (const [args, said, expected] of [
    [['--egress'], undefined, on],
    [[], 'on', on],
    [['--egress-auto'], undefined, auto],
    [[], 'auto', auto],
    [['--egress'], 'auto', on],
    [[], 'off', null],
    [[], '', null],
  ] as const) {
    assert.deepEqual(of([...args], { COCORE_EGRESS: said }), expected, `${args.join(' ')} ${said}`);
  }
  const proxy = 'http://p:3128';
  assert.deepEqual(of(['--egress', '--egress-proxy', proxy]), { proxy, isRequired: true });
  assert.throws(() => of(['--egress-proxy', 'http://p:3128']), /--egress/);
  assert.throws(() => of(['--egress', '--egress-proxy', 'ftp://p']), /http/);
  assert.throws(() => of([], { COCORE_EGRESS: 'yes' }), /on, auto or off/);
});
