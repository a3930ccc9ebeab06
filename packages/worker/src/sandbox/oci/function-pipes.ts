import { closeSync, constants, openSync } from 'node:fs';
import { Socket } from 'node:net';
import { join } from 'node:path';

/** The daemon's ends of a function's three streams. */
export interface FunctionPipes extends Disposable {
  readonly stdin: Socket;
  readonly stdout: Socket;
  readonly stderr: Socket;
}

/** Opens the named pipes that the launcher made; it holds them open until it is told to run. */
export function openPipes(directory: string): FunctionPipes {
  const opened: Socket[] = [];
  const open = (name: string, flags: number) => {
    const fd = openSync(join(directory, name), flags | constants.O_NONBLOCK);
    try {
      const socket = new Socket({ fd, readable: name !== 'stdin', writable: name === 'stdin' });
      opened.push(socket);
      return socket;
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  };
  return {
    stdin: open('stdin', constants.O_WRONLY),
    stdout: open('stdout', constants.O_RDONLY),
    stderr: open('stderr', constants.O_RDONLY),
    [Symbol.dispose]: () => {
      for (const socket of opened) socket.destroy();
    },
  };
}
