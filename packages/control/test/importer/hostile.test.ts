import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { makeCertificate } from '../../src/auth/self-signed.ts';
import { blob, type Entry, image, type ImageParts, manifestOf, tar } from './support/images.ts';
import { failsWith, openImporter, requestOf } from './support/importer.ts';
import { type Answer, scriptedRegistry } from './support/scripted-registry.ts';

const MIB = 1024 * 1024;
const SIMPLE = image({ layers: [tar([{ name: 'file', content: 'content' }])] });
const LAYER = SIMPLE.blobs[1]!;

/** What the importer says of one image from one registry. */
async function importFrom(
  one: typeof SIMPLE,
  answer: Answer = () => false,
  options: Parameters<typeof openImporter>[0] = {},
) {
  await using registry = await scriptedRegistry(one, answer);
  await using opened = await openImporter(options);
  await using imported = await opened.importer.import(requestOf(`${registry.host}/a`));
  return imported.rootfs.digest;
}

const blobAnswer =
  (give: Parameters<typeof scriptedRegistry>[1] & {}): Answer =>
  (request, response) =>
    request.url!.endsWith(LAYER.digest) ? give(request, response) : false;

describe('a registry that lies', { concurrency: 2 }, () => {
  test('about the bytes of a layer, is found out', async () => {
    const other = Buffer.from(LAYER.bytes);
    other[20]! ^= 1;
    const answer = blobAnswer((_, response) => Boolean(response.writeHead(200).end(other)));
    await assert.rejects(importFrom(SIMPLE, answer), failsWith('image_digest', /./));
  });

  test('about the length of a layer, is found out', async () => {
    const longer = Buffer.concat([LAYER.bytes, Buffer.alloc(100)]);
    const answer = blobAnswer((_, response) => Boolean(response.writeHead(200).end(longer)));
    await assert.rejects(importFrom(SIMPLE, answer), failsWith('image_digest', /./));
  });

  test('about what a layer unpacks to, is found out', async () => {
    const archive = tar([{ name: 'other', content: '' }]);
    const layer = blob(LAYER.mediaType, gzipSync(archive));
    const config = SIMPLE.blobs[0]!;
    const lying = { manifest: manifestOf(SIMPLE.manifest.mediaType, config, [layer]), blobs: [config, layer] };
    await assert.rejects(importFrom(lying), failsWith('image_digest', /unpacks to other bytes/));
  });

  test('about a manifest that was asked for by digest, is found out', async () => {
    await using registry = await scriptedRegistry(SIMPLE);
    await using opened = await openImporter();
    const reference = `${registry.host}/a@sha256:${'0'.repeat(64)}`;
    await assert.rejects(opened.importer.import(requestOf(reference)), failsWith('image_digest', /./));
  });

  test('by never ending, is stopped at the limit', async () => {
    const answer = blobAnswer((_, response) => {
      response.writeHead(200);
      const chunk = Buffer.alloc(MIB, 'x');
      const more = () => {
        while (!response.destroyed && response.write(chunk));
      };
      response.on('drain', more);
      more();
      return true;
    });
    await assert.rejects(
      importFrom(SIMPLE, answer, { limits: { compressedBytes: MIB } }),
      failsWith('image_too_large', /sent more than/),
    );
  });

  test('by never answering, is given up', async () => {
    await assert.rejects(
      importFrom(
        SIMPLE,
        blobAnswer(() => true),
        { limits: { timeoutMs: 4000 } },
      ),
      failsWith('image_timeout', /4 seconds/),
    );
  });
});

describe('a way to where the importer may not go', { concurrency: 2 }, () => {
  let canary: Awaited<ReturnType<typeof scriptedRegistry>>;
  before(async () => void (canary = await scriptedRegistry(SIMPLE)));
  after(async () => {
    assert.deepEqual(canary.requests, [], 'something came to where nothing may come');
    await canary[Symbol.asyncDispose]();
  });
  const resolve = async (name: string) => [name === 'metadata.example' ? '169.254.169.254' : '127.0.0.1'];
  const targets = () =>
    [
      ['https://10.0.0.1/blob', 'image_refused', /10\.0\.0\.1 is not a host on the public/],
      ['https://metadata.example/blob', 'image_refused', /metadata\.example .*169\.254\.169\.254/],
      [`https://inside.example:${canary.port}/blob`, 'image_refused', /inside\.example .*127\.0\.0\.1/],
      ['http://1.1.1.1/blob', 'image_refused', /plain HTTP/],
      [`http://${canary.host}/blob`, 'image_unknown', /does not answer/],
      [`http://[::1]:${canary.port}/blob`, 'image_unknown', /does not answer/],
    ] as const;

  test('a redirect of a layer, is not followed there', async () => {
    for (const [location, code, message] of targets()) {
      const answer = blobAnswer((_, response) => Boolean(response.writeHead(307, { location }).end()));
      await assert.rejects(importFrom(SIMPLE, answer, { resolve }), failsWith(code, message), location);
    }
  });

  test('an authentication realm, is not asked there', async () => {
    for (const [realm, code, message] of targets().filter((_, index) => index % 2 === 0)) {
      const answer: Answer = (_, response) =>
        Boolean(response.writeHead(401, { 'www-authenticate': `Bearer realm="${realm}",service="s"` }).end());
      await assert.rejects(importFrom(SIMPLE, answer, { resolve }), failsWith(code, message), realm);
    }
  });

  test('the reference itself, does not lead there', async () => {
    await using opened = await openImporter({ resolve });
    for (const reference of ['10.0.0.1:5000/a', 'metadata.example/a', `inside.example:${canary.port}/a`]) {
      await assert.rejects(opened.importer.import(requestOf(reference)), failsWith('image_refused', /not a host on/));
    }
    await assert.rejects(
      opened.importer.import(requestOf(`${canary.host}/a`, { allowLoopback: false })),
      failsWith('image_refused', /loopback/),
    );
  });
});

test('a registry of the internet, is spoken to through the way out, each connection checked', async () => {
  const tls = makeCertificate(['registry.example'], Date.now());
  const directory = await mkdtemp(join(tmpdir(), 'cocore-authority-'));
  const authorities = join(directory, 'authority.pem');
  await writeFile(authorities, tls.cert);
  await using registry = await scriptedRegistry(SIMPLE, () => false, tls);
  try {
    const reached: string[] = [];
    let answers = [['1.1.1.1']];
    await using opened = await openImporter({
      authorities,
      resolve: async () => (answers.length > 1 ? answers.shift()! : answers[0]!),
      connect: (address, port) => {
        reached.push(`${address} ${port}`);
        return connect({ host: '127.0.0.1', port: registry.port });
      },
    });
    const request = requestOf('registry.example:8443/a', { allowLoopback: false });
    await using imported = await opened.importer.import(request);
    assert.match(imported.reference, /^registry\.example:8443\/a@sha256:/);
    assert.deepEqual(new Set(reached), new Set(['1.1.1.1 8443']));

    // The name leads elsewhere from the second connection on.
    const before = reached.length;
    answers = [['1.1.1.1'], ['127.0.0.1']];
    await assert.rejects(
      opened.importer.import({ ...request, scope: 'other' }),
      failsWith('image_refused', /registry\.example is not a host on the public internet \(127\.0\.0\.1\)/),
    );
    assert.equal(reached.length, before + 1);

    answers = [[]];
    await assert.rejects(opened.importer.import(request), failsWith('image_unknown', /no host registry\.example/));
  } finally {
    await rm(directory, { recursive: true });
  }
});

describe('an image', { concurrency: 2 }, () => {
  const one = (entries: readonly Entry[], rest: Partial<ImageParts> = {}) => image({ layers: [tar(entries)], ...rest });

  test('whose layer unpacks to a thousand times its size, is stopped while it unpacks', async () => {
    const archive = tar([{ name: 'zeros', content: Buffer.alloc(200 * MIB) }]);
    await assert.rejects(
      importFrom(image({ layers: [archive], compress: (bytes) => gzipSync(bytes, { level: 9 }) })),
      failsWith('image_too_large', /ratio's limit is 200/),
    );
  });

  test('that unpacks to more than the limit, is stopped while it unpacks', async () => {
    const archive = tar([{ name: 'zeros', content: Buffer.alloc(20 * MIB) }]);
    await assert.rejects(
      importFrom(image({ layers: [archive, archive] }), undefined, { limits: { unpackedBytes: 30 * MIB } }),
      failsWith('image_too_large', /unpacks to more than/),
    );
  });

  test('with too many files, counted with directories that only paths name, is refused', async () => {
    const entries = Array.from({ length: 20 }, (_, index) => ({ name: `${index}/${'d/'.repeat(40)}file` }));
    await assert.rejects(
      importFrom(one(entries), undefined, { limits: { files: 800 } }),
      failsWith('image_too_large', /more than 800 files/),
    );
  });

  test('with too many layers, or too large ones, is refused before they are pulled', async () => {
    const many = image({ layers: Array.from({ length: 129 }, (_, index) => tar([{ name: `f${index}` }])) });
    const pulled: Answer = (request) => {
      assert.ok(!request.url!.includes('/blobs/'));
      return false;
    };
    await assert.rejects(importFrom(many, pulled), failsWith('image_too_large', /129 layers; the limit is 128/));
    const huge = { ...LAYER, size: 5 * 1024 * MIB };
    const manifest = manifestOf(SIMPLE.manifest.mediaType, SIMPLE.blobs[0]!, [huge]);
    await assert.rejects(
      importFrom({ ...SIMPLE, manifest }, pulled),
      failsWith('image_too_large', /have 5368709120 bytes/),
    );
  });

  test('with 128 layers, is imported', async () => {
    const layers = Array.from({ length: 128 }, (_, index) => tar([{ name: `f${index}` }]));
    assert.match(await importFrom(image({ layers })), /^sha256:/);
  });

  test('that is not well formed, is refused', async () => {
    const raw = (bytes: Buffer) => image({ layers: [bytes] });
    const cut = tar([{ name: 'file', content: 'x'.repeat(5000) }]).subarray(0, 2000);
    const cases: [typeof SIMPLE, RegExp][] = [
      [raw(Buffer.from('no archive'.repeat(200))), /not a tar archive/],
      [raw(cut), /ends in the middle/],
      [
        one([{ name: 'f', content: 'x'.repeat(5000) }], { compress: (bytes) => gzipSync(bytes).subarray(0, -20) }),
        /whole gzip/,
      ],
      [one([{ name: 'sparse', pax: { 'GNU.sparse.major': '1', 'GNU.sparse.realsize': '9999999' } }]), /sparse/],
      [one([{ name: 'sparse', type: 'S' }]), /sparse/],
      [one([{ name: 'what', type: 'Z' }]), /unknown type/],
      [one([{ name: 'whose', pax: { uid: '4000000' } }]), /id 4000000/],
      [one([{ name: 'deep', pax: { path: 'd/'.repeat(200) + 'f' } }]), /directories deep/],
      [one([{ name: 'long', pax: { path: 'n'.repeat(256) } }]), /too long/],
      [one([{ name: 'hard', type: '1', link: 'nothing' }]), /do not fit/],
      [one([{ name: 'f' }], { architecture: 's390x' }), /for linux\/s390x, not for linux\/amd64/],
    ];
    for (const [broken, message] of cases) {
      await assert.rejects(importFrom(broken), failsWith('image_refused', message), String(message));
    }
  });
});
