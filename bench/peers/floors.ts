/** What this machine does at best, without any system: the same moment's measure for all of them. */
import { once } from 'node:events';
import { closeSync, fdatasyncSync, fsyncSync, openSync, writeSync } from 'node:fs';
import { createServer, request, Agent } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { WebSocket, WebSocketServer } from 'ws';
import { quantile } from '../table.ts';
import { CONCURRENCY } from './peer.ts';
import { Program } from './service.ts';

export interface Floor {
  readonly name: string;
  readonly perSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

const SECONDS = 1;
const BLOCK_BYTES = 4096;
const MESSAGE = 'x'.repeat(220);

function repeated(name: string, each: number, once: () => void): Floor {
  const timesMs: number[] = [];
  const began = performance.now();
  for (let now = began; now < began + SECONDS * 1000;) {
    once();
    const next = performance.now();
    timesMs.push(next - now);
    now = next;
  }
  return floorOf(name, timesMs, (performance.now() - began) / each);
}

async function repeatedAtOnce(name: string, inFlight: number, once: () => Promise<unknown>): Promise<Floor> {
  const timesMs: number[] = [];
  const began = performance.now();
  const lane = async () => {
    while (performance.now() < began + SECONDS * 1000) {
      const at = performance.now();
      await once();
      timesMs.push(performance.now() - at);
    }
  };
  await Promise.all(Array.from({ length: inFlight }, lane));
  return floorOf(name, timesMs, performance.now() - began);
}

const floorOf = (name: string, timesMs: readonly number[], tookMs: number): Floor => ({
  name,
  perSecond: (timesMs.length / tookMs) * 1000,
  p50Ms: quantile(timesMs, 0.5),
  p99Ms: quantile(timesMs, 0.99),
});

function append(directory: string, name: string, sync: (descriptor: number) => void): Floor {
  const descriptor = openSync(join(directory, name), 'w');
  const block = Buffer.alloc(BLOCK_BYTES, 1);
  try {
    return repeated(name, 1, () => {
      writeSync(descriptor, block);
      sync(descriptor);
    });
  } finally {
    closeSync(descriptor);
  }
}

/** Rows of a table with an index, as many in one transaction. */
function sqlite(directory: string, each: number): Floor {
  const database = new DatabaseSync(join(directory, `floor-${each}.db`));
  try {
    database.exec(
      'PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE job (id TEXT PRIMARY KEY, body TEXT)',
    );
    const insert = database.prepare('INSERT INTO job (id, body) VALUES (?, ?)');
    let serial = 0;
    return repeated(`SQLite, ${each} rows a commit`, each, () => {
      database.exec('BEGIN IMMEDIATE');
      for (let at = 0; at < each; at += 1) {
        serial += 1;
        insert.run(`job-${String(serial).padStart(12, '0')}`, MESSAGE);
      }
      database.exec('COMMIT');
    });
  } finally {
    database.close();
  }
}

/** The other end of both wires, which is a process of its own: `floors.ts`, started with this variable. */
const ECHO = 'COCORE_BENCH_ECHO';

async function echo(): Promise<void> {
  const http = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => response.end(JSON.stringify(JSON.parse(Buffer.concat(chunks).toString('utf8')))));
  }).listen(0, '127.0.0.1');
  new WebSocketServer({ server: http, perMessageDeflate: false }).on('connection', (socket) => {
    socket.on('message', (data: Buffer) => socket.send(data, { binary: false }));
  });
  await once(http, 'listening');
  process.stdout.write(`ready ${(http.address() as AddressInfo).port}\n`);
}

async function webSocket(port: number, inFlight: number): Promise<Floor> {
  const socket = new WebSocket(`ws://127.0.0.1:${port}`, { perMessageDeflate: false });
  await once(socket, 'open');
  const waiting: (() => void)[] = [];
  socket.on('message', () => waiting.shift()!());
  const turn = () =>
    new Promise<void>((resolve) => {
      waiting.push(resolve);
      socket.send(MESSAGE);
    });
  try {
    return await repeatedAtOnce(`WebSocket there and back, ${inFlight} in flight`, inFlight, turn);
  } finally {
    socket.terminate();
  }
}

async function post(port: number, inFlight: number): Promise<Floor> {
  const agent = new Agent({ keepAlive: true, maxSockets: inFlight });
  const body = JSON.stringify({ text: MESSAGE });
  const headers = { 'content-type': 'application/json', 'content-length': body.length };
  const turn = () =>
    new Promise<void>((resolve, reject) => {
      const sent = request({ port, host: '127.0.0.1', method: 'POST', agent, headers }, (response) => {
        response.resume().once('end', resolve);
      });
      sent.once('error', reject).end(body);
    });
  try {
    return await repeatedAtOnce(`HTTP POST, ${inFlight} in flight`, inFlight, turn);
  } finally {
    agent.destroy();
  }
}

/** @param directory of its own, on the disk that is measured */
export async function floors(directory: string): Promise<Floor[]> {
  const disk = [
    append(directory, '4 KiB appended, fsync', fsyncSync),
    append(directory, '4 KiB appended, fdatasync', fdatasyncSync),
    sqlite(directory, 1),
    sqlite(directory, CONCURRENCY),
  ];
  await using other = new Program(process.execPath, [import.meta.filename], { env: { ...process.env, [ECHO]: 'yes' } });
  const [, port] = await other.prints(/^ready (\d+)$/m);
  const wires: Floor[] = [];
  for (const inFlight of [1, CONCURRENCY]) wires.push(await webSocket(Number(port), inFlight));
  for (const inFlight of [1, CONCURRENCY]) wires.push(await post(Number(port), inFlight));
  return [...disk, ...wires];
}

if (process.env[ECHO] !== undefined && import.meta.main) await echo();
