// husk: the 9P server over a directory of the host: 9P2000.L translated into the FUSE server's operations
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "hostfs/ninep_protocol.h"
#include "hostfs/server_impl.h"

namespace husk::hostfs {

/// What the FUSE server tells of a file (struct fuse_attr).
struct Attributes {
  std::uint64_t inode = 0, size = 0, blocks = 0;
  std::uint64_t seconds[3] = {};  ///< access, modification, change
  std::uint32_t nanoseconds[3] = {};
  std::uint32_t mode = 0, links = 0, uid = 0, gid = 0, device = 0, block_size = 0;
};

/// Each message is one operation of the FUSE server, or a few: there is one node table, one table of open files, one
/// set of rules about what the guest may reach. A fid holds a look-up of its node, and a handle once it is open.
class Ninep final : public Protocol {
 public:
  explicit Ninep(std::shared_ptr<Server::Impl> server) : server_(std::move(server)) {}

  // Protocol
  Identity identify(const core::ShareRequest& request) const override;
  Answer handle(const core::ShareRequest& request, Scratch& scratch, bool may_block) override;
  std::uint64_t refuse(const core::ShareRequest& request, std::uint64_t tag, int error) const override;
  /// None is sent: the client takes the tag as free once the Rflush has come.
  std::uint64_t refuse_cancelled(const core::ShareRequest&, std::uint64_t) const override { return 0; }
  bool cancellation_is_last() const override { return true; }
  void reset() override;
  std::vector<std::uint8_t> save() const override;
  Status load(std::span<const std::uint8_t> state) override;

 private:
  /// One message on its way. Handlers return 0, a positive errno, kLater or kLocked.
  struct Message {
    fuse::Reader args;
    fuse::Writer reply;
    const core::ShareRequest& request;
    Scratch& scratch;
    bool may_block = false;
    std::uint64_t in_bytes = 0;
    std::uint64_t room = 0;    ///< for the whole answer
    std::uint64_t placed = 0;  ///< bytes of data that were put behind the answer
  };

  /// An extended attribute as something that is read or written.
  struct Xattr {
    std::string name;
    std::vector<std::uint8_t> value;
    std::uint64_t size = 0;  ///< of a new one, when it is complete
    std::uint32_t flags = 0;
  };
  struct Fid {
    enum class Kind : std::uint8_t { closed, open, xattr_value, xattr_new } kind = Kind::closed;
    bool directory = false;  ///< an open one
    std::uint32_t uid = 0;   ///< who is attached
    bool holds_xattr() const { return kind == Kind::xattr_value || kind == Kind::xattr_new; }
    NodeId node = 0;
    std::uint64_t handle = 0;  ///< an open one's
    std::shared_ptr<Xattr> xattr = {};
    std::set<std::uint64_t> lock_owners = {};
    /// The name that it was walked by, if any: a file may have others.
    Location walked = {};
  };

  /// A request to the FUSE server in the name of a message.
  class Question {
   public:
    Question(Ninep& owner, Message& message, NodeId node, std::uint32_t uid = 0, std::uint32_t gid = 0);
    fuse::Writer args;
    Call call;
    int ask(fuse::Op op);
    /// After success.
    fuse::Reader answer() const { return fuse::Reader(message_.scratch.inner_reply); }

   private:
    Ninep& owner_;
    Message& message_;
  };

  int dispatch(ninep::Type type, Message& message);

  // ninep.cpp
  int negotiate(Message& message);
  int attach(Message& message);
  int clunk(Message& message);
  Outcome<Fid> find(std::uint32_t number) const;
  /// A new fid, whose look-up is given over to it.
  int add(std::uint32_t number, Fid fid);
  /// Replaces a closed fid by what it has become; ESTALE if somebody else was faster.
  int become(std::uint32_t number, const Fid& before, Fid after);
  /// What a fid holds, released.
  void release(Message& message, const Fid& fid);
  int set_new_xattr(Message& message, const Fid& fid);

  // ninep_names.cpp
  int walk(Message& message);
  int create(Message& message);
  int make_symlink(Message& message);
  int make_node(Message& message);
  int make_directory(Message& message);
  int make_link(Message& message);
  int rename(Message& message);
  int rename_at(Message& message);
  int unlink_at(Message& message);
  int remove(Message& message);
  int read_link(Message& message);
  /// One step of a walk: the node, with a look-up counted, and its attributes.
  Outcome<NodeId> step(Message& message, NodeId from, const std::string& name, Attributes& attributes);
  /// Finishes the making of something whose answer is an entry: its qid, and the node is forgotten again.
  int reply_made(Message& message, Question& question);
  /// The name of a fid's file: that which it was walked by if it still is one.
  Outcome<Location> location_of(const Fid& fid);
  int unlink(Message& message, NodeId directory, const std::string& name, bool is_directory);
  int rename_node(Message& message, NodeId from, const std::string& old_name, NodeId to, const std::string& new_name);

  // ninep_files.cpp
  int open(Message& message);
  int read(Message& message);
  int write(Message& message);
  int read_directory(Message& message);
  int get_attributes(Message& message);
  int set_attributes(Message& message);
  int stat_file_system(Message& message);
  int sync(Message& message);
  int lock(Message& message);
  int get_lock(Message& message);
  /// Remembers whose locks go when the fid does.
  void note_owner(std::uint32_t number, std::uint64_t owner);
  int xattr_walk(Message& message);
  int xattr_create(Message& message);
  int attributes_of(Message& message, const Fid& fid, Attributes& attributes);

  /// A string without zero bytes; else the reader fails.
  static std::string text(fuse::Reader& reader, bool& good);
  static Attributes read_attributes(fuse::Reader& reader);
  static void put_qid(fuse::Writer& out, const Attributes& attributes);

  const std::shared_ptr<Server::Impl> server_;
  mutable std::mutex mutex_;
  std::unordered_map<std::uint32_t, Fid> fids_;
  std::size_t xattr_fids_ = 0;                   ///< of them: what holds memory of the guest's choice
  std::atomic<std::uint32_t> message_size_ = 0;  ///< what was agreed on; 0: no session
};

}  // namespace husk::hostfs
