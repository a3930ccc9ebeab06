import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DeployProgressPrinter, progressLine } from '../src/deploy-progress.ts';

function printed(isTTY: boolean, act: (printer: DeployProgressPrinter) => void): string {
  let text = '';
  const write = (piece: string | Uint8Array) => (text += Buffer.from(piece as string).toString());
  const printer = new DeployProgressPrinter({ isTTY, write });
  act(printer);
  printer.end();
  return text;
}

test('progress, the line has what is known', () => {
  assert.equal(progressLine({ step: 'resolving' }), 'looking the image up');
  assert.equal(
    progressLine({ step: 'pulling', bytes: 3 * 2 ** 20, totalBytes: 12 * 2 ** 20, layers: 1, totalLayers: 4 }),
    'pulling the image, layer 1/4, 3.0 MiB of 12.0 MiB',
  );
  assert.equal(progressLine({ step: 'unpacking', bytes: 2 ** 20, totalBytes: 0 }), 'unpacking the image, 1.0 MiB');
});

test('a terminal, one line changes and is gone at the end', () => {
  const text = printed(true, (printer) => {
    printer.progress({ step: 'resolving' });
    printer.progress({ step: 'packing' });
  });
  assert.equal(text, '\r\u001b[Klooking the image up\r\u001b[Kmaking the root file system\r\u001b[K');
});

test('no terminal, one line a step, and what a build prints between them', () => {
  const text = printed(false, (printer) => {
    printer.progress({ step: 'pulling', bytes: 1 });
    printer.progress({ step: 'pulling', bytes: 2 });
    printer.progress({ step: 'building', waiting: 'no worker is online' });
    printer.progress({ step: 'building' });
    printer.progress({ step: 'building' });
    printer.output({ stream: 'stdout', base64: Buffer.from('done\n').toString('base64') });
  });
  assert.equal(text, 'pulling the image\nbuilding, no worker is online\nbuilding\ndone\n');
});
