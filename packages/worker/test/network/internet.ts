/**
 * What answers on every address of the lab's internet. For each connection it prints a line. Port 80 speaks HTTP and says what was connected to; `/to/HOST` redirects.
 * Port 7 says back what it hears, and ends when the other has; 9 swallows and says how much it was; 19 sends as many bytes as the first line
 * says; 99 resets after the first bytes; 3128 is an HTTP proxy that connects by itself.
 */
import { connect, createServer, type Socket } from 'node:net';

const SERVICES: Record<number, (socket: Socket) => void> = {
  80: (socket) =>
    socket.once('data', (head) => {
      const target = /^GET \/to\/(\S+) /.exec(head.toString('latin1'))?.[1];
      const status = target === undefined ? '200 OK' : `302 Found\r\nLocation: http://${target}/`;
      socket.end(`HTTP/1.0 ${status}\r\n\r\nthis is ${socket.localAddress}`);
    }),
  25: (socket) => void socket.end('220 mail\r\n'),
  443: (socket) => void socket.pipe(socket),
  7: (socket) => void socket.pipe(socket),
  9: (socket) => {
    let count = 0;
    socket.on('data', (piece: Buffer) => (count += piece.length)).on('end', () => socket.end(`${count}`));
  },
  19: (socket) =>
    socket.once('data', (line) => {
      let left = Number(line.toString());
      const give = () => {
        while (left > 0) {
          const piece = Buffer.alloc(Math.min(left, 65_536), 'x');
          left -= piece.length;
          if (!socket.write(piece)) return void socket.once('drain', give);
        }
        socket.end();
      };
      give();
    }),
  99: (socket) => void socket.once('data', () => socket.resetAndDestroy()),
  3128: (socket) =>
    socket.once('data', (head) => {
      const [, host, port] = /^CONNECT ([\d.]+):(\d+) /.exec(head.toString('latin1')) ?? [];
      const onward = connect({ host: host!, port: Number(port), allowHalfOpen: true });
      onward
        .on('error', () => socket.destroy())
        .once('connect', () => {
          socket.write('HTTP/1.1 200 OK\r\nProxied: yes\r\n\r\n');
          socket.pipe(onward).pipe(socket);
        });
    }),
};

const listening = Object.entries(SERVICES).map(
  ([port, serve]) =>
    new Promise<void>((resolve) => {
      createServer({ allowHalfOpen: true }, (socket) => {
        socket.on('error', () => undefined);
        const { localAddress: address, remoteAddress: from } = socket;
        process.stdout.write(`${JSON.stringify({ address, port: Number(port), from })}\n`);
        serve(socket);
      }).listen(Number(port), '0.0.0.0', resolve);
    }),
);
await Promise.all(listening);
// What has come when it is asked is told by then.
process.stdin.on('data', () => setTimeout(() => process.stdout.write('told\n'), 50));
process.stdout.write('ready\n');
