// husk: the FUSE server over a directory of the host: what its source files share
#pragma once

#include <array>
#include <atomic>
#include <cerrno>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "hostfs/fuse_protocol.h"
#include "hostfs/node_table.h"
#include "hostfs/open_files.h"
#include "hostfs/port.h"
#include "hostfs/server.h"

namespace husk::hostfs {

/// The path by which this process reaches what a descriptor refers to, following nothing else.
class ProcPath {
 public:
  explicit ProcPath(int fd);
  const char* c_str() const { return text_.data(); }

 private:
  std::array<char, 32> text_;
};

/// One request on its way. Handlers return 0, a positive errno, or one of the two above.
struct Call {
  std::uint64_t unique = 0;
  NodeId node = 0;
  std::uint32_t uid = 0, gid = 0;
  fuse::Reader args;
  fuse::Writer reply;
  std::span<const core::ShareSpan> in, out;
  std::uint64_t in_bytes = 0, out_bytes = 0;  ///< in all spans
  std::uint64_t placed = 0;                   ///< bytes that a READ put into `out`
  /// Where the data of a WRITE begin in `in`, and those of a READ in `out`.
  std::uint64_t data_in = fuse::kInHeader + fuse::kWriteIn, data_out = fuse::kOutHeader;
  bool may_block = false;
  bool no_answer = false;
};

/// Its handlers are those of FUSE's operations; other protocols are translated into them.
class Server::Impl final : public Protocol {
 public:
  static Result<std::shared_ptr<Impl>> create(ServerOptions options, Log& log);

  // Protocol
  Identity identify(const core::ShareRequest& request) const override;
  Answer handle(const core::ShareRequest& request, Scratch& scratch, bool may_block) override;
  std::uint64_t refuse(const core::ShareRequest& request, std::uint64_t unique, int error) const override;
  std::uint64_t refuse_cancelled(const core::ShareRequest& request, std::uint64_t unique) const override {
    return refuse(request, unique, EINTR);
  }
  bool cancellation_is_last() const override { return false; }
  void reset() override;
  std::vector<std::uint8_t> save() const override;
  Status load(std::span<const std::uint8_t> state) override;

  // ---- for other protocols ----
  const ServerOptions& options() const { return options_; }
  NodeTable& nodes() { return *nodes_; }
  /// Begins a session with these of INIT's features, ending one that is open.
  void begin(std::uint64_t features);
  int dispatch(fuse::Op op, Call& call);

 private:
  struct LockOwner {
    NodeId node;
    std::uint64_t owner;
    auto operator<=>(const LockOwner&) const = default;
  };

  Impl(ServerOptions options, std::unique_ptr<NodeTable> nodes, NodeTable::Limits limits, std::size_t handles,
       std::size_t recent);
  /// True for operations that a read-only share refuses.
  static bool changes_something(fuse::Op op);

  // server.cpp
  int init(Call& call);
  void put_attributes(fuse::Writer& out, const Stat& stat) const;
  void put_entry(fuse::Writer& out, const NodeTable::Entry& entry) const;
  int reply_entry(Call& call, const Location& location);
  std::uint32_t shown(std::uint32_t id, bool group) const;

  // server_names.cpp
  int look_up(Call& call);
  int forget(Call& call);
  int batch_forget(Call& call);
  int make_node(Call& call);
  int make_directory(Call& call);
  int make_symlink(Call& call);
  int make_link(Call& call);
  int remove(Call& call, bool directory);
  int rename(Call& call, bool with_flags);
  int read_link(Call& call);
  /// The directory of a request that makes something, and the name to make.
  Outcome<FdRef> place_for(Call& call, std::string_view name);
  /// Gives what was made just now the owner and mode that the guest asked for.
  int settle(Call& call, const Stat& directory, NodeTable::Entry& made, std::uint32_t mode);
  int reply_made(Call& call, const std::string& name, std::uint32_t mode, NodeTable::Entry* entry = nullptr);

  // server_attributes.cpp
  int get_attributes(Call& call);
  int set_attributes(Call& call);
  int set_size(Call& call, std::uint64_t handle, bool has_handle, std::uint64_t size);
  int get_xattr(Call& call);
  /// Where the attribute is to be set or removed, or why it may not be.
  Outcome<FdRef> xattr_to_change(NodeId node, const std::string& name);
  int set_xattr(Call& call);
  int remove_xattr(Call& call);
  int list_xattr(Call& call);
  int access(Call& call);
  int stat_file_system(Call& call);

  // server_files.cpp
  int open(Call& call, bool directory);
  int create_file(Call& call);
  int make_temporary(Call& call);
  int release(Call& call);
  int read(Call& call);
  int write(Call& call);
  int flush(Call& call);
  int sync(Call& call);
  int allocate(Call& call);
  int seek(Call& call);
  int copy_range(Call& call);
  int read_directory(Call& call, bool plus);
  Outcome<OpenFileRef> open_node(NodeId node, std::uint32_t guest_flags, bool directory);
  /// The handle of a request; or, where the guest opens without asking, the node's own file.
  Outcome<OpenFileRef> file_of(Call& call, std::uint64_t handle, bool directory);
  void reply_open(Call& call, std::uint64_t handle, bool directory);
  /// What the kernel does by itself where a process without privileges writes (inode(7)).
  int drop_privilege_bits(int fd) const;

  // server_locks.cpp
  int get_lock(Call& call);
  int set_lock(Call& call, bool wait);
  void drop_locks(NodeId node, std::uint64_t owner);
  Outcome<FdRef> lock_owner(const OpenFile& file, std::uint64_t owner);
  bool locks_on_host() const { return options_.host_locks && !options_.read_only; }

  const ServerOptions options_;
  const NodeTable::Limits limits_;
  const std::size_t most_handles_;
  const std::uint32_t own_uid_, own_gid_;
  const bool may_chown_;
  std::unique_ptr<NodeTable> nodes_;
  std::unique_ptr<HandleTable> handles_;
  RecentFiles recent_;
  /// Names change one at a time, so that what is known of them follows in the same order.
  std::mutex names_;
  std::mutex locks_mutex_;
  std::map<LockOwner, FdRef> lock_owners_;
  std::atomic<bool> session_open_ = false;
  std::atomic<std::uint64_t> features_ = 0;  ///< what INIT agreed on
};

}  // namespace husk::hostfs
