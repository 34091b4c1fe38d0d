import { nullTranslator } from '@jupyterlab/translation';
import { factsOf, withoutContainer } from '../src/facts';
import type { IProject, IProjectDetails } from '../src/tokens';
import { lineOf, span } from '../src/words';
import { JOB, PROJECT } from './samples';

const trans = nullTranslator.load('');
const NOW = Date.parse('2026-03-04T12:00:00Z');
const DETAILS: IProjectDetails = {
  ...PROJECT,
  built: true,
  outdated: false,
  python: { executable: '/usr/bin/python', version: [3, 11, 2], ipykernel: null },
  pip: null,
  kernels: 0,
  engine: { name: 'docker', version: '28.2' },
  limits: { memory: 2 ** 33, cpus: 1.5, shm_size: 2 ** 26, pids_limit: 512 },
  created: '2026-03-01T12:00:00+00:00',
  started: '2026-03-04T09:30:00+00:00',
  memory: { used: 3 * 2 ** 28, limit: 2 ** 33 },
  gpus: { count: 2, ids: [] }
};

function told(details: IProjectDetails | null): Record<string, string> {
  return Object.fromEntries(factsOf(PROJECT, details, NOW, trans).map(({ label, value }) => [label, value]));
}

describe('facts', () => {
  it('says all there is to say', () => {
    expect(told(DETAILS)).toEqual({
      Project: 'thesis',
      Container: 'thesis._.1, running',
      Image: 'ds01-1/thesis:latest',
      Age: '3 days',
      'Up for': '2 hours',
      Memory: '768 MiB of 8 GiB in use',
      GPUs: '2',
      CPUs: 'at most 1.5',
      'Shared memory': 'at most 64 MiB',
      Processes: 'at most 512',
      Python: '/usr/bin/python (3.11.2)',
      Kernels: '0',
      Engine: 'docker 28.2'
    });
  });

  it('leaves out what is not known', () => {
    const none = { memory: null, cpus: null, shm_size: null, pids_limit: null };
    const stopped = { ...DETAILS, started: null, memory: null, gpus: null, python: null, kernels: null };
    expect(Object.keys(told({ ...stopped, limits: none, created: null, engine: {} }))).toEqual([
      'Project',
      'Container',
      'Image'
    ]);
    expect(Object.keys(told(null))).toEqual(['Project', 'Container', 'Image']);
  });

  it('tells memory and GPUs as they were given', () => {
    expect(told({ ...DETAILS, memory: null }).Memory).toBe('at most 8 GiB');
    expect(told({ ...DETAILS, memory: { used: 2 ** 20, limit: null } }).Memory).toBe(
      '1 MiB in use, no limit'
    );
    expect(told({ ...DETAILS, memory: { used: null, limit: 2 ** 30 } }).Memory).toBe('at most 1 GiB');
    expect(told({ ...DETAILS, gpus: { count: null, ids: [] } }).GPUs).toBe('all');
    expect(told({ ...DETAILS, gpus: { count: 2, ids: ['0', 'MIG-1'] } }).GPUs).toBe('0, MIG-1');
  });

  it('names the node where there are several', () => {
    const onNode = { ...PROJECT, node: 'n2' };
    const container = (project: IProject): string | undefined => factsOf(project, null, NOW, trans)[1]?.value;
    expect(container(onNode)).toBe('thesis._.1, running on n2');
    expect(container({ ...onNode, state: 'exited' })).toBe('thesis._.1, stopped');
    expect(container({ ...onNode, state: 'dead' })).toBe('thesis._.1, lost');
  });

  it('is not put off by a clock that is ahead', () => {
    expect(told({ ...DETAILS, started: '2026-03-04T12:00:09+00:00' })['Up for']).toBe('less than a minute');
  });

  it('says why there is no container', () => {
    expect(withoutContainer(null, trans)).toContain('No kernel runs');
    expect(withoutContainer({ id: '1', project: null, is_on_host: true }, trans)).toContain('On the host');
    expect(withoutContainer({ id: '1', project: null, is_on_host: false }, trans)).toContain(
      'could not start'
    );
  });

  it('names times as people do', () => {
    const minute = 60_000;
    expect([1, 90, 47 * 60, 72 * 60].map(count => span(count * minute, trans))).toEqual([
      '1 minute',
      '1 hour',
      '47 hours',
      '3 days'
    ]);
  });

  it('leads to the line that failed, where there is one', () => {
    const error = { message: 'No.', reason: 'build-failed' };
    expect(lineOf({ ...JOB, error: { ...error, line: 7 } }, trans)).toEqual({
      line: 7,
      label: 'Open Dockerfile at Line 7'
    });
    expect(lineOf({ ...JOB, error }, trans)).toBeNull();
  });
});
