import { createHash, createSign, generateKeyPairSync, randomBytes, X509Certificate } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { join } from 'node:path';

const VALID_YEARS = 10;

export interface Certificate {
  readonly cert: string;
  readonly key: string;
  /** Of the certificate in DER, hexadecimal. */
  readonly sha256: string;
}

/**
 * The certificate that the server made itself, kept in `directory`; made when there is none, or when it does not name
 * every host. Workers know it by its digest, not by who signed it.
 */
export async function selfSignedCertificate(
  directory: string,
  hosts: readonly string[],
  nowMs: number,
): Promise<Certificate> {
  const certPath = join(directory, 'cert.pem');
  const keyPath = join(directory, 'key.pem');
  const [cert, key] = await Promise.all([certPath, keyPath].map((path) => readFile(path, 'utf8').catch(() => null)));
  if (typeof cert === 'string' && typeof key === 'string' && names(cert, hosts))
    return { cert, key, sha256: digestOf(cert) };
  const made = makeCertificate(hosts, nowMs);
  await mkdir(directory, { recursive: true, mode: 0o700 });
  await writeFile(keyPath, made.key, { mode: 0o600 });
  await writeFile(certPath, made.cert);
  return { ...made, sha256: digestOf(made.cert) };
}

const digestOf = (cert: string): string => createHash('sha256').update(new X509Certificate(cert).raw).digest('hex');

function names(cert: string, hosts: readonly string[]): boolean {
  const certificate = new X509Certificate(cert);
  return hosts.every(
    (host) => (isIP(host) === 0 ? certificate.checkHost(host) : certificate.checkIP(host)) !== undefined,
  );
}

/** A certificate of version 3 for a new P-256 key, signed by itself (RFC 5280). */
export function makeCertificate(hosts: readonly string[], nowMs: number): { cert: string; key: string } {
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const ecdsaWithSha256 = sequence(oid(0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02));
  const name = sequence(der(0x31, sequence(oid(0x55, 0x04, 0x03), der(0x0c, Buffer.from('CoCore control server')))));
  const end = new Date(nowMs);
  end.setUTCFullYear(end.getUTCFullYear() + VALID_YEARS);
  const serial = randomBytes(16);
  serial[0] = (serial[0]! & 0x7f) | 0x01;
  const subjectAltName = sequence(...hosts.map(generalName));
  const spki = publicKey.export({ type: 'spki', format: 'der' });
  const keyId = createHash('sha256').update(spki).digest().subarray(0, 20);
  const extensions = sequence(
    sequence(oid(0x55, 0x1d, 0x11), der(0x04, subjectAltName)),
    // Not an authority: it can vouch for nothing but itself.
    sequence(oid(0x55, 0x1d, 0x13), der(0x01, Buffer.from([0xff])), der(0x04, sequence())),
    // Every server's certificate has the same subject: who trusts two of them tells them apart by these.
    sequence(oid(0x55, 0x1d, 0x0e), der(0x04, der(0x04, keyId))),
    sequence(oid(0x55, 0x1d, 0x23), der(0x04, sequence(der(0x80, keyId)))),
  );
  const statement = sequence(
    der(0xa0, der(0x02, Buffer.from([2]))),
    der(0x02, serial),
    ecdsaWithSha256,
    name,
    sequence(time(nowMs - 24 * 3_600_000), time(end.getTime())),
    name,
    spki,
    der(0xa3, extensions),
  );
  const signature = createSign('sha256').update(statement).sign(privateKey);
  const certificate = sequence(statement, ecdsaWithSha256, der(0x03, Buffer.concat([Buffer.from([0]), signature])));
  const lines = certificate.toString('base64').match(/.{1,64}/g)!;
  return {
    cert: `-----BEGIN CERTIFICATE-----\n${lines.join('\n')}\n-----END CERTIFICATE-----\n`,
    key: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
  };
}

function der(tag: number, ...contents: Uint8Array[]): Buffer {
  const content = Buffer.concat(contents);
  const { length } = content;
  const head =
    length < 0x80 ? [tag, length] : length < 0x100 ? [tag, 0x81, length] : [tag, 0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.from(head), content]);
}

const sequence = (...contents: Uint8Array[]): Buffer => der(0x30, ...contents);
const oid = (...bytes: number[]): Buffer => der(0x06, Buffer.from(bytes));

function time(ms: number): Buffer {
  const digits = new Date(ms).toISOString().replaceAll(/[-:T]|\.\d+/g, '');
  return der(0x18, Buffer.from(digits));
}

function generalName(host: string): Buffer {
  switch (isIP(host)) {
    case 4:
      return der(0x87, Buffer.from(host.split('.').map(Number)));
    case 6:
      return der(0x87, ipv6Bytes(host));
    default:
      return der(0x82, Buffer.from(host));
  }
}

function ipv6Bytes(host: string): Buffer {
  const [head = '', tail] = host.split('::');
  const groups = (text: string) => (text === '' ? [] : text.split(':').map((group) => Number.parseInt(group, 16)));
  const [before, after] = [groups(head), groups(tail ?? '')];
  const middle = new Array<number>(tail === undefined ? 0 : 8 - before.length - after.length).fill(0);
  return Buffer.from([...before, ...middle, ...after].flatMap((group) => [group >> 8, group & 0xff]));
}
