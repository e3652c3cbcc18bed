// husk: a command that runs in a guest as it would on the host: what it is, and what the guest needs for it
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "app/command_channel.h"
#include "app/kernel_modules.h"
#include "base/log.h"
#include "base/result.h"
#include "hostfs/server.h"
#include "machine/config.h"
#include "machine/machine.h"

namespace husk::app {

/// A directory of the host that the guest sees.
struct GuestShare {
  std::string host = {};
  std::string guest = {};  ///< absolute
  bool read_only = false;
  bool operator==(const GuestShare&) const = default;
};

struct GuestCommand {
  std::vector<std::string> arguments = {};
  std::vector<std::string> environment = {};  ///< "NAME=VALUE"
  std::string directory = "/";                ///< absolute
  std::uint32_t uid = 0, gid = 0;
  std::vector<std::uint32_t> groups = {};
  std::uint32_t umask = 022;
  std::vector<GuestShare> shares = {};
  /// Where changes of the root file system go; the guest's memory if empty.
  std::string overlay = {};
  std::string modules = {};   ///< directory of the kernel's modules; looked for if empty
  std::string hostname = {};  ///< "husk" if empty
  bool verbose = false;       ///< the kernel's messages go to standard error
  bool operator==(const GuestCommand&) const = default;
};

/// More than anybody needs; the guest's program and the PCI bus have no room for more.
inline constexpr std::size_t kMostShares = 16;

/// This process' user, groups, umask and working directory, and of its environment what a command usually needs.
GuestCommand command_of_this_process();
/// The same for root: groups, home directory and names.
void make_root_user(GuestCommand& command);
/// Adds the variable, or all of them: "NAME", "NAME=VALUE" or "all". A name that is not set adds nothing.
Status pass_environment(GuestCommand& command, std::string_view text);
/// "HOST:GUEST[:ro|:rw]".
Result<GuestShare> parse_share(std::string_view text);
/// A directory at its own place.
Result<GuestShare> share_in_place(const std::string& directory);

/// What follows the program's words of a Linux command line when a command is run: only what saves time that the guest
/// would spend in looking for hardware that this machine lacks.
std::string command_kernel_words(const GuestCommand& command);

/// One run of a command: the host's side of its streams and files. Made on the loop's thread before other threads;
/// outlives the machine.
class CommandRun {
 public:
  static Result<std::unique_ptr<CommandRun>> create(host::EventLoop& loop, Log& log, const GuestCommand& command,
                                                    CommandChannel::Events events);

  /// The initramfs for this kernel, with husk's own program as process 1.
  Result<std::vector<std::uint8_t>> make_initramfs(const machine::MachineConfig& config,
                                                   std::span<const std::uint8_t> kernel);
  /// The devices that the program wants, to come before all others. After make_initramfs().
  std::vector<machine::VirtioSpec> devices();
  machine::BackendFactory<core::CharBackend> console();

  CommandChannel& channel() { return *channel_; }

 private:
  CommandRun(Log& log, const GuestCommand& command) : log_(log), command_(command) {}
  Status make_servers();
  Status serve(std::string tag, hostfs::ServerOptions options);
  Result<std::vector<KernelModule>> find_modules(const machine::MachineConfig& config,
                                                 std::span<const std::uint8_t> kernel);
  std::string describe(const machine::MachineConfig& config, std::span<const KernelModule> modules) const;

  struct Served {
    std::string tag;
    std::unique_ptr<hostfs::Server> server;
  };
  Log& log_;
  const GuestCommand& command_;
  std::vector<Served> served_;
  std::string modules_place_;  ///< where the guest's modprobe looks for modules that the host does not have there
  bool ninep_ = false;         ///< the kernel has 9p and no virtio-fs
  bool terminal_ = false;
  bool error_is_terminal_ = false;
  std::unique_ptr<CommandChannel> channel_;
};

}  // namespace husk::app
