#include "task.h"

#include <fcntl.h>

int task_pipes(struct task *task, int child[3])
{
  int in[2], out[2], err[2];
  if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0)
    return -1;
  child[0] = in[0];
  child[1] = out[1];
  child[2] = err[1];
  task->stdin_fd = in[1];
  task->stdout_fd = out[0];
  task->stderr_fd = err[0];
  /* Only the agent's ends: the function gets pipes that block, as programs expect. */
  return fcntl(in[1], F_SETFL, O_NONBLOCK) < 0 || fcntl(out[0], F_SETFL, O_NONBLOCK) < 0 ||
                 fcntl(err[0], F_SETFL, O_NONBLOCK) < 0
             ? -1
             : 0;
}
