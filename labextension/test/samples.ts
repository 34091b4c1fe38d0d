import type { IJob, IProject } from '../src/tokens';

export const PROJECT: IProject = {
  name: 'thesis',
  path: '/w/thesis',
  contents_path: 'thesis',
  kernel_name: 'ds01-thesis',
  image: 'ds01-1/thesis:latest',
  container: 'thesis._.1',
  state: 'running',
  node: null,
  drift: { added: 0, changed: 0, removed: 0 },
  lost: null,
  error: null
};

export const JOB: IJob = {
  id: 'a'.repeat(16),
  project: 'thesis',
  kind: 'rebuild',
  phase: 'build',
  progress: { step: 1, steps: 3, name: 'RUN true' },
  error: null,
  started: '2026-01-01T00:00:00Z',
  ended: null,
  cancelling: false
};
