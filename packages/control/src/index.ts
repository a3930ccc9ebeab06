/** The control server, for programs that start it inside their own process (tests and benches). */
export { type Clock, SYSTEM_CLOCK } from './clock.ts';
export { type ControlServer, type ServerOptions, startServer, type TlsChoice } from './server.ts';
