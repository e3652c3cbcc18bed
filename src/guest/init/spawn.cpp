// husk: starting the user's command in the guest
#include "spawn.h"

#include <asm/ioctls.h>
#include <asm/signal.h>
#include <asm/termios.h>
#include <linux/errno.h>
#include <linux/fcntl.h>

namespace husk::guest {
namespace {

/// The command's ends.
struct Streams {
  Word input = -1, output = -1, error = -1;
};

/// What the child tells its parent if it cannot become the command.
struct Failure {
  int error;
  bool directory;  ///< it was about the working directory
};

void set_nonblocking(Word fd) { call(__NR_fcntl, fd, F_SETFL, call(__NR_fcntl, fd, F_GETFL, 0) | O_NONBLOCK); }

struct Pipe {
  int read, write;
};
Pipe make_pipe(const Control& control) {
  Pipe ends;
  if (const Word error = call(__NR_pipe2, &ends, O_CLOEXEC)) fail(control, "cannot make a pipe", "", error);
  return ends;
}

Word make_terminal(const Control& control, const Config& config, Word& slave) {
  const Word master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (master < 0) fail(control, "cannot open /dev/ptmx", "", master);
  const int unlocked = 0;
  call(__NR_ioctl, master, TIOCSPTLCK, &unlocked);
  slave = call(__NR_ioctl, master, TIOCGPTPEER, Word{O_RDWR | O_NOCTTY | O_CLOEXEC});
  if (slave < 0) fail(control, "cannot open the pseudo-terminal", "", slave);
  // As login(1) leaves it: the user's own, the group tty (5 on Debian and most others).
  call(__NR_fchown, slave, config.uid, Word{5});
  winsize size{};
  size.ws_row = static_cast<unsigned short>(config.rows);
  size.ws_col = static_cast<unsigned short>(config.columns);
  if (size.ws_row && size.ws_col) call(__NR_ioctl, master, TIOCSWINSZ, &size);
  set_nonblocking(master);
  return master;
}

/// Tries one path; returns why it was not executed.
Word execute(const char* path, char** arguments, char** environment) {
  const Word error = call(__NR_execve, path, arguments, environment);
  if (error != -ENOEXEC) return error;
  // A script without a first line that says its interpreter is the shell's (POSIX, execvp).
  Size count = 0;
  while (arguments[count]) ++count;
  constexpr Size kMost = 4096;
  if (count + 2 > kMost) return error;
  static const char* words[kMost];
  words[0] = "sh";
  words[1] = path;
  for (Size i = 1; i <= count; ++i) words[i + 1] = arguments[i];
  call(__NR_execve, "/bin/sh", words, environment);
  return error;
}

/// As execvp(3); returns the error.
Word search_and_execute(const Config& config) {
  const char* const name = config.arguments[0];
  for (const char* at = name; *at; ++at)
    if (*at == '/') return execute(name, config.arguments, config.environment);
  const char* path = "/usr/local/bin:/usr/bin:/bin";
  for (char** variable = config.environment; *variable; ++variable)
    if (const char* value = after(*variable, "PATH=")) path = value;
  if (!*name) return -ENOENT;
  Word result = -ENOENT;
  for (;;) {
    Text<4200> candidate;
    Size length = 0;
    while (path[length] && path[length] != ':') ++length;
    if (length < 4000) {
      memcpy(candidate.bytes(), path, length);
      Text<4200> whole;
      whole << (length ? candidate.bytes() : ".") << "/" << name;
      const Word error = execute(whole.text(), config.arguments, config.environment);
      if (error == -EACCES)
        result = error;
      else if (error != -ENOENT && error != -ENOTDIR)
        return error;
    }
    if (!path[length]) return result;
    path += length + 1;
  }
}

[[noreturn]] void become(const Config& config, const Streams& streams, Word terminal, Word report) {
  call(__NR_setsid);
  if (terminal >= 0) call(__NR_ioctl, terminal, TIOCSCTTY, Word{0});
  call(__NR_dup2, streams.input, Word{0});
  call(__NR_dup2, streams.output, Word{1});
  call(__NR_dup2, streams.error, Word{2});
  const unsigned long none = 0;
  call(__NR_rt_sigprocmask, SIG_SETMASK, &none, nullptr, sizeof none);
  call(__NR_umask, config.umask);
  Failure failure{0, false};
  Word error = call(__NR_setgroups, config.group_count, config.groups);
  if (!error) error = call(__NR_setgid, config.gid);
  if (!error) error = call(__NR_setuid, config.uid);
  if (!error) {
    error = call(__NR_chdir, config.cwd);
    failure.directory = error != 0;
  }
  if (!error) error = search_and_execute(config);
  failure.error = static_cast<int>(-error);
  write(report, &failure, sizeof failure);
  call(__NR_exit_group, Word{127});
  __builtin_unreachable();
}

}  // namespace

Process spawn(const Control& control, const Config& config) {
  Process process;
  Streams streams;
  Word slave = -1;
  if (config.any_tty()) process.terminal = make_terminal(control, config, slave);
  const auto duplicate = [&](Word fd) { return call(__NR_fcntl, fd, F_DUPFD_CLOEXEC, 3); };
  if (config.tty_in) {
    streams.input = slave;
    process.input = process.terminal;
  } else {
    const Pipe pipe = make_pipe(control);
    streams.input = pipe.read;
    process.input = pipe.write;
  }
  const auto output = [&](bool terminal, Word& own, Word& theirs) {
    if (terminal) {
      theirs = slave;
      return;
    }
    const Pipe pipe = make_pipe(control);
    own = pipe.read;
    theirs = pipe.write;
    set_nonblocking(own);
  };
  output(config.tty_out, process.output, streams.output);
  output(config.tty_err, process.error, streams.error);
  // The terminal speaks on the output port, or on the error port if only that is one.
  if (config.tty_out)
    process.output = duplicate(process.terminal);
  else if (config.tty_err)
    process.error = duplicate(process.terminal);
  set_nonblocking(process.input);

  const Pipe report = make_pipe(control);
  process.pid = call(__NR_fork);
  if (process.pid < 0) fail(control, "cannot make a process", "", process.pid);
  if (process.pid == 0) become(config, streams, slave, report.write);
  close(report.write);
  if (config.any_tty()) close(slave);
  if (!config.tty_in) close(streams.input);
  if (!config.tty_out) close(streams.output);
  if (!config.tty_err) close(streams.error);
  Failure failure;
  if (read(report.read, &failure, sizeof failure) == sizeof failure) {
    Text<kMostMessage> text;
    const unsigned error = static_cast<unsigned>(failure.error);
    const char* const known = error_text(failure.error);
    unsigned char code[4];
    const unsigned told = failure.directory ? 0 : error;
    memcpy(code, &told, 4);
    for (unsigned char byte : code) text.append(static_cast<char>(byte));
    text << (failure.directory ? "cannot go into the directory '" : "cannot run '")
         << (failure.directory ? config.cwd : config.arguments[0]) << "': ";
    if (known)
      text << known;
    else
      text << "error " << error;
    send(control, ToHost::not_started, text.text(), text.size());
    wait_for_end();
  }
  close(report.read);
  return process;
}

}  // namespace husk::guest
