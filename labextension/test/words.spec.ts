import { plain, size } from '../src/words';

describe('words', () => {
  it('takes colours out of logs, and what was overwritten', () => {
    expect(plain('\u001b[32mgreen\u001b[0m\n')).toBe('green\n');
    expect(plain('10%\r50%\r100%\nnext\n')).toBe('100%\nnext\n');
    expect(plain('windows\r\nline\r\n')).toBe('windows\nline\n');
  });

  it('names sizes as people do', () => {
    expect(size(512)).toBe('512 B');
    expect(size(8 * 1024 ** 3)).toBe('8 GiB');
    expect(size(1.5 * 1024 ** 2)).toBe('1.5 MiB');
  });
});
