// husk: a network by passt
#include "netdev/passt.h"

#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstring>

#include "host/unique_fd.h"
#include "netdev/stream.h"

extern char** environ;

namespace husk::netdev {

namespace {

/// The program, and the stream to it.
class Passt final : public core::NetBackend {
 public:
  Passt(std::unique_ptr<core::NetBackend> stream, pid_t child) : stream_(std::move(stream)), child_(child) {}
  ~Passt() override {
    // It ends with its socket; a signal makes it certain.
    stream_.reset();
    ::kill(child_, SIGTERM);
    while (::waitpid(child_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
  core::NetCapabilities capabilities() const override { return stream_->capabilities(); }
  bool link_up() const override { return stream_->link_up(); }
  void send(std::span<const std::uint8_t> frame, const core::NetOffload& offload) override {
    stream_->send(frame, offload);
  }
  void set_callbacks(Callbacks callbacks) override { stream_->set_callbacks(std::move(callbacks)); }
  void ready_to_receive() override { stream_->ready_to_receive(); }

 private:
  std::unique_ptr<core::NetBackend> stream_;
  pid_t child_;
};

}  // namespace

Result<std::unique_ptr<core::NetBackend>> open_passt(host::EventLoop& loop, Log& log, mem::LockDomain& domain,
                                                     const std::string& program,
                                                     const std::vector<std::string>& arguments) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return fail_errno(errno, "socketpair");
  host::UniqueFd ours(ends[0]);
  const host::UniqueFd theirs(ends[1]);
  // In the foreground: a child that stays one can be waited for.
  std::vector<std::string> words = {program, "--foreground", "--quiet", "--fd", std::to_string(theirs.get())};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> raw;
  for (const std::string& word : words) raw.push_back(const_cast<char*>(word.c_str()));
  raw.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, theirs.get(), theirs.get());
  pid_t child = -1;
  const int error = ::posix_spawnp(&child, raw[0], &actions, nullptr, raw.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (error != 0)
    return std::unexpected(Error{fmt::format("cannot start '{}': {}", program, std::strerror(error)),
                                 "install passt, or name the program by path="});
  auto stream = open_stream(loop, log, domain, {.descriptor = ours.release()});
  if (!stream) {
    ::kill(child, SIGTERM);
    while (::waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
    }
    return stream;
  }
  return std::make_unique<Passt>(std::move(*stream), child);
}

}  // namespace husk::netdev
