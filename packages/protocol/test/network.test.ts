import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { egressRule, FunctionDeploy, NetworkInput, parseIpv4 } from '../src/index.ts';

describe('an entry of what a function may reach', () => {
  const address = (text: string) => parseIpv4(text)!;

  test('names, ranges and ports, are read', () => {
    assert.deepEqual(egressRule('API.Example.org.'), { kind: 'name', name: 'api.example.org', port: null });
    assert.deepEqual(egressRule('xn--bcher-kva.example:443'), {
      kind: 'name',
      name: 'xn--bcher-kva.example',
      port: 443,
    });
    assert.deepEqual(egressRule('*.example.org:8080'), { kind: 'below', name: 'example.org', port: 8080 });
    assert.deepEqual(egressRule('*:443'), { kind: 'any', port: 443 });
    const one = address('93.184.216.34');
    assert.deepEqual(egressRule('93.184.216.34'), { kind: 'range', first: one, last: one, port: null });
    assert.deepEqual(egressRule('93.184.216.0/24:53'), {
      ...{ kind: 'range', first: address('93.184.216.0'), last: address('93.184.216.255') },
      port: 53,
    });
    assert.deepEqual(egressRule('0.0.0.0/0'), { kind: 'range', first: 0, last: 2 ** 32 - 1, port: null });
  });

  for (const [target, why] of [
    ['', /neither a name/],
    ['localhost', /dot in it/],
    ['*.', /neither a name/],
    ['*.org', /dot in it/],
    ['a.*.org', /neither a name/],
    ['https://example.org', /neither a name|IPv4|port/],
    ['example.org/path', /range/],
    ['user@example.org', /neither a name/],
    ['bücher.example', /xn--/],
    ['example.org:0', /port/],
    ['example.org:65536', /port/],
    ['example.org:', /port/],
    ['example.org:25', /465 or 587/],
    ['[2606:2800::1]:443', /IPv4 alone/],
    ['1.2.3', /four parts/],
    ['1.2.3.256', /four parts/],
    ['0x7f.0.0.1', /four parts/],
    ['010.0.0.1', /four parts/],
    ['93.184.216.1/24', /first IPv4 address/],
    ['10.0.0.0/8', /not public/],
    ['127.0.0.1', /not public/],
    ['169.254.169.254:80', /not public/],
    ['192.168.7.0/24', /not public/],
    ['10.0.0.0/33', /range/],
    ['-a.example.org', /neither a name/],
    [`${'a'.repeat(64)}.example.org`, /neither a name/],
    [`${'a.'.repeat(126)}example`, /neither a name/],
  ] as const) {
    test(`${target.slice(0, 40)}, is refused with what is wrong`, () => {
      assert.throws(
        () => egressRule(target),
        (error) => error instanceof RangeError && why.test(error.message),
      );
    });
  }

  test('at a deployment, what is wrong is named by its place; without one there is no network', () => {
    const base = { name: 'f', file: { name: 'f.sh', contentBase64: 'QQ==' }, runtime: 'bash' };
    assert.deepEqual(FunctionDeploy.parse(base).network, { mode: 'none' });
    assert.equal(FunctionDeploy.parse(base).idempotent, false);
    const network = { mode: 'egress', allow: ['example.org', 'localhost'] };
    const refused = FunctionDeploy.safeParse({ ...base, network });
    assert.deepEqual(refused.error?.issues[0]?.path, ['network', 'allow', 1]);
    assert.equal(NetworkInput.safeParse({ mode: 'egress', allow: [] }).success, false);
    assert.deepEqual(NetworkInput.parse({ mode: 'egress', allow: ['*'] }), {
      ...{ mode: 'egress', allow: ['*'] },
      maxBytes: 2 ** 30,
    });
  });
});
