/** All that is known about where a kernel runs, as labelled texts; what is not known is left out. */
import type { TranslationBundle } from '@jupyterlab/translation';
import type { IGpus, IKernelPlace, IMemory, IProject, IProjectDetails } from './tokens';
import { size, span, stateOf } from './words';

export interface IFact {
  readonly label: string;
  readonly value: string;
}

/** What there is to say of a kernel that runs in no container. */
export function withoutContainer(place: IKernelPlace | null, trans: TranslationBundle): string {
  if (place === null) {
    return trans.__('No kernel runs, or it is not one that this extension knows.');
  }
  return place.is_on_host
    ? trans.__('On the host: this kernel runs on the server itself, outside every container.')
    : trans.__('This kernel could not start in a container; its cells say why.');
}

/** `details` may be older than `project`, or missing; `now` is in milliseconds, as `Date.now` has it. */
export function factsOf(
  project: IProject,
  details: IProjectDetails | null,
  now: number,
  trans: TranslationBundle
): readonly IFact[] {
  const { created, started, python, limits, engine, kernels } = details ?? {};
  const ago = (moment: string | null | undefined): string | null =>
    moment ? span(Math.max(now - Date.parse(moment), 0), trans) : null;
  const rows: [string, string | number | null | undefined][] = [
    [trans.__('Project'), project.name],
    [trans.__('Container'), project.container && `${project.container}, ${stateOf(project, trans)}`],
    [trans.__('Image'), imageOf(project, details, trans)],
    [trans.__('Age'), ago(created)],
    [trans.__('Up for'), ago(started)],
    [trans.__('Memory'), memoryOf(details?.memory ?? null, limits?.memory ?? null, trans)],
    [trans.__('GPUs'), gpusOf(details?.gpus ?? null, trans)],
    [trans.__('CPUs'), limits?.cpus && trans.__('at most %1', limits.cpus)],
    [trans.__('Shared memory'), limits?.shm_size && trans.__('at most %1', size(limits.shm_size))],
    [trans.__('Processes'), limits?.pids_limit && trans.__('at most %1', limits.pids_limit)],
    [trans.__('Python'), python && `${python.executable} (${python.version.join('.')})`],
    [trans.__('Kernels'), kernels],
    [trans.__('Engine'), engine?.name && `${engine.name} ${engine.version ?? ''}`]
  ];
  return rows.flatMap(([label, value]) =>
    value === null || value === undefined || value === '' ? [] : [{ label, value: String(value) }]
  );
}

function imageOf(
  project: IProject,
  details: IProjectDetails | null,
  trans: TranslationBundle
): string | null {
  return details?.outdated && project.image
    ? trans.__('%1 (it is newer than the container)', project.image)
    : project.image;
}

/** `limit` is what the settings say, for a container that does not run. */
function memoryOf(memory: IMemory | null, limit: number | null, trans: TranslationBundle): string | null {
  const most = memory === null ? limit : memory.limit;
  const used = memory?.used ?? null;
  if (used === null) {
    return most === null ? null : trans.__('at most %1', size(most));
  }
  return most === null
    ? trans.__('%1 in use, no limit', size(used))
    : trans.__('%1 of %2 in use', size(used), size(most));
}

function gpusOf(gpus: IGpus | null, trans: TranslationBundle): string | null {
  if (gpus === null) {
    return null;
  }
  const { count, ids } = gpus;
  return ids.length > 0 ? ids.join(', ') : count === null ? trans.__('all') : String(count);
}
