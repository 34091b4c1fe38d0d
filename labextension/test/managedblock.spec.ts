import { managedBlock } from '../src/managedblock';

const HEADING = '# Custom additional packages';

function found(...lines: string[]): string[] | null {
  const block = managedBlock(lines);
  return block && lines.slice(block.first - 1, block.last);
}

describe('managedBlock', () => {
  it('is the heading and the install below it', () => {
    const block = [
      HEADING,
      'RUN pip install --no-cache-dir \\',
      '    "six==1.16.0" \\',
      '    "toml==0.10.2"'
    ];
    expect(found('FROM a', 'RUN true', '', ...block, 'CMD ["x"]')).toEqual(block);
    expect(managedBlock(['FROM a', ...block])).toEqual({ first: 2, last: 5 });
  });

  it('is found however it was written', () => {
    const block = [
      '  #  custom additional packages :',
      '# note',
      'RUN python3 -m pip install \\',
      '# note',
      ' six'
    ];
    expect(found('FROM a', ...block)).toEqual(block);
    const escaped = [HEADING, 'RUN pip3 install `', '  six'];
    expect(found('# escape=`', 'FROM a', ...escaped)).toEqual(escaped);
  });

  it('includes the lines that change the user for it', () => {
    const block = ['USER root', HEADING, 'RUN pip install six', '', 'USER jovyan'];
    expect(found('FROM a', 'USER jovyan', ...block, 'RUN true')).toEqual(block);
    expect(found('FROM a', ...block.slice(0, 3), 'RUN true')).toEqual(block.slice(1, 3));
  });

  it('is the one of the last stage, and one with packages before one without', () => {
    const block = [HEADING, 'RUN pip install six'];
    expect(managedBlock(['FROM a', ...block, 'FROM b', 'RUN true'])).toBeNull();
    expect(managedBlock(['FROM a', HEADING, '', ...block])).toEqual({ first: 4, last: 5 });
    expect(managedBlock(['FROM a', HEADING, '', 'RUN true'])).toEqual({ first: 2, last: 2 });
  });

  it('is not there in other files', () => {
    expect(managedBlock([''])).toBeNull();
    expect(managedBlock(['FROM a', 'RUN pip install six'])).toBeNull();
  });
});
