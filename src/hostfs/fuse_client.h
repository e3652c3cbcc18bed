// husk: the guest's side of the FUSE protocol for tests, in the structures of Linux' own header
#pragma once

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/fuse.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "hostfs/server.h"

namespace husk::hostfs {

/// A directory of the host, shared, and a driver that asks for it.
class FuseClient {
 public:
  using Bytes = std::vector<std::uint8_t>;
  explicit FuseClient(ServerOptions options) { start(std::move(options)); }
  ~FuseClient() { stop(); }
  void start(ServerOptions options) {
    auto made = Server::create(std::move(options), log_);
    if (!made) {
      ADD_FAILURE() << made.error().text();
      return;
    }
    server_ = std::move(*made);
    port_ = server_->attach(domain_);
  }
  void stop() {
    if (port_) port_->drain();
    port_.reset();
    server_.reset();
  }
  core::ShareBackend& port() { return *port_; }
  mem::LockDomain& domain() { return domain_; }

  struct Answer {
    bool done = false;
    int error = 0;  ///< positive errno
    Bytes data;     ///< behind the header
    std::uint64_t written = 0;
    template <class T>
    T as(std::size_t offset = 0) const {
      T value{};
      if (data.size() >= offset + sizeof(T)) std::memcpy(&value, data.data() + offset, sizeof(T));
      return value;
    }
  };
  /// Sends and does not wait.
  std::uint64_t send(std::uint32_t opcode, std::uint64_t node, const Bytes& args, std::size_t room = 8192) {
    auto flight = std::make_unique<Flight>();
    const std::uint64_t unique = next_++;
    fuse_in_header header{};
    header.len = static_cast<std::uint32_t>(sizeof header + args.size());
    header.opcode = opcode;
    header.unique = unique;
    header.nodeid = node;
    header.uid = uid;
    header.gid = gid;
    header.pid = 1;
    flight->in.resize(sizeof header);
    std::memcpy(flight->in.data(), &header, sizeof header);
    flight->args = args;
    flight->out.resize(sizeof(fuse_out_header));
    flight->room.resize(room);
    // In pieces, as drivers send it.
    flight->ins = {flight->in, flight->args};
    flight->outs = {flight->out, flight->room};
    return launch(unique, std::move(flight));
  }
  /// Any bytes as a request.
  std::uint64_t send_raw(const Bytes& bytes, std::size_t room) {
    auto flight = std::make_unique<Flight>();
    flight->in = bytes;
    flight->room.resize(room);
    flight->ins = {flight->in};
    flight->outs = {flight->room};
    return launch(next_++, std::move(flight));
  }
  bool answered(std::uint64_t unique) {
    const std::lock_guard lock(mutex_);
    return flights_.at(unique)->answer.done;
  }
  Answer wait(std::uint64_t unique) {
    std::unique_lock lock(mutex_);
    Flight& flight = *flights_.at(unique);
    changed_.wait(lock, [&] { return flight.answer.done; });
    Answer answer = flight.answer;
    Bytes all = flight.out;
    all.insert(all.end(), flight.room.begin(), flight.room.end());
    flights_.erase(unique);
    if (answer.written >= sizeof(fuse_out_header)) {
      fuse_out_header header{};
      std::memcpy(&header, all.data(), sizeof header);
      EXPECT_EQ(header.len, answer.written);
      answer.error = -header.error;
      answer.data.assign(all.begin() + sizeof header, all.begin() + static_cast<std::ptrdiff_t>(answer.written));
    }
    return answer;
  }
  Answer ask(std::uint32_t opcode, std::uint64_t node, const Bytes& args, std::size_t room = 8192) {
    return wait(send(opcode, node, args, room));
  }

  template <class T>
  static Bytes bytes_of(const T& value) {
    Bytes bytes(sizeof value);
    std::memcpy(bytes.data(), &value, sizeof value);
    return bytes;
  }
  static Bytes text(const std::string& text) {
    Bytes bytes(text.begin(), text.end());
    bytes.push_back(0);
    return bytes;
  }
  static Bytes join(Bytes a, const Bytes& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }

  // ---- the requests ----
  Answer init(std::uint32_t flags = ~0u, std::uint32_t minor = FUSE_KERNEL_MINOR_VERSION) {
    fuse_init_in in{};
    in.major = FUSE_KERNEL_VERSION;
    in.minor = minor;
    in.max_readahead = 131072;
    in.flags = flags;
    return ask(FUSE_INIT, 0, bytes_of(in));
  }
  Answer lookup(std::uint64_t parent, const std::string& name) { return ask(FUSE_LOOKUP, parent, text(name)); }
  /// The node of a path of plain names; 0 if it is not there.
  std::uint64_t node(const std::string& path) {
    std::uint64_t at = FUSE_ROOT_ID;
    for (const auto& part : std::filesystem::path(path)) {
      const Answer answer = lookup(at, part.string());
      if (answer.error) return 0;
      at = answer.as<fuse_entry_out>().nodeid;
    }
    return at;
  }
  Answer getattr(std::uint64_t node_id, std::optional<std::uint64_t> handle = {}) {
    fuse_getattr_in in{};
    in.getattr_flags = handle ? FUSE_GETATTR_FH : 0;
    in.fh = handle.value_or(0);
    return ask(FUSE_GETATTR, node_id, bytes_of(in));
  }
  fuse_attr attributes(std::uint64_t node_id, std::optional<std::uint64_t> handle = {}) {
    const Answer answer = getattr(node_id, handle);
    EXPECT_EQ(answer.error, 0);
    return answer.as<fuse_attr_out>().attr;
  }
  Answer setattr(std::uint64_t node_id, const fuse_setattr_in& in) { return ask(FUSE_SETATTR, node_id, bytes_of(in)); }
  Answer open_answer(std::uint64_t node_id, std::uint32_t flags, bool directory = false) {
    fuse_open_in in{};
    in.flags = flags;
    return ask(directory ? FUSE_OPENDIR : FUSE_OPEN, node_id, bytes_of(in));
  }
  std::uint64_t open(std::uint64_t node_id, std::uint32_t flags, bool directory = false) {
    const Answer answer = open_answer(node_id, flags, directory);
    EXPECT_EQ(answer.error, 0);
    return answer.as<fuse_open_out>().fh;
  }
  Answer create(std::uint64_t parent, const std::string& name, std::uint32_t flags, std::uint32_t mode) {
    fuse_create_in in{};
    in.flags = flags;
    in.mode = mode;
    return ask(FUSE_CREATE, parent, join(bytes_of(in), text(name)));
  }
  Answer read(std::uint64_t node_id, std::uint64_t handle, std::uint64_t offset, std::uint32_t size) {
    fuse_read_in in{};
    in.fh = handle;
    in.offset = offset;
    in.size = size;
    return ask(FUSE_READ, node_id, bytes_of(in), size);
  }
  std::string read_text(std::uint64_t node_id, std::uint64_t handle, std::uint64_t offset = 0) {
    const Answer answer = read(node_id, handle, offset, 65536);
    EXPECT_EQ(answer.error, 0);
    return {answer.data.begin(), answer.data.end()};
  }
  Answer write(std::uint64_t node_id, std::uint64_t handle, std::uint64_t offset, const std::string& data,
               std::uint32_t flags = 0) {
    fuse_write_in in{};
    in.fh = handle;
    in.offset = offset;
    in.size = static_cast<std::uint32_t>(data.size());
    in.write_flags = flags;
    return ask(FUSE_WRITE, node_id, join(bytes_of(in), Bytes(data.begin(), data.end())));
  }
  Answer release(std::uint64_t node_id, std::uint64_t handle, bool directory = false) {
    fuse_release_in in{};
    in.fh = handle;
    return ask(directory ? FUSE_RELEASEDIR : FUSE_RELEASE, node_id, bytes_of(in));
  }
  Answer mkdir(std::uint64_t parent, const std::string& name, std::uint32_t mode) {
    fuse_mkdir_in in{};
    in.mode = mode;
    return ask(FUSE_MKDIR, parent, join(bytes_of(in), text(name)));
  }
  Answer mknod(std::uint64_t parent, const std::string& name, std::uint32_t mode, std::uint32_t device = 0) {
    fuse_mknod_in in{};
    in.mode = mode;
    in.rdev = device;
    return ask(FUSE_MKNOD, parent, join(bytes_of(in), text(name)));
  }
  Answer symlink(std::uint64_t parent, const std::string& name, const std::string& target) {
    return ask(FUSE_SYMLINK, parent, join(text(name), text(target)));
  }
  Answer link(std::uint64_t parent, const std::string& name, std::uint64_t old) {
    fuse_link_in in{};
    in.oldnodeid = old;
    return ask(FUSE_LINK, parent, join(bytes_of(in), text(name)));
  }
  Answer unlink(std::uint64_t parent, const std::string& name) { return ask(FUSE_UNLINK, parent, text(name)); }
  Answer rmdir(std::uint64_t parent, const std::string& name) { return ask(FUSE_RMDIR, parent, text(name)); }
  Answer rename(std::uint64_t parent, const std::string& name, std::uint64_t target, const std::string& new_name,
                std::uint32_t flags = 0) {
    fuse_rename2_in in{};
    in.newdir = target;
    in.flags = flags;
    return ask(FUSE_RENAME2, parent, join(bytes_of(in), join(text(name), text(new_name))));
  }
  void forget(std::uint64_t node_id, std::uint64_t count) {
    fuse_forget_in in{};
    in.nlookup = count;
    EXPECT_EQ(ask(FUSE_FORGET, node_id, bytes_of(in), 0).written, 0u);
  }
  struct Name {
    std::string name;
    std::uint32_t type;
    std::uint64_t inode, offset;
    fuse_entry_out entry;  ///< READDIRPLUS only
  };
  std::vector<Name> readdir(std::uint64_t node_id, std::uint64_t handle, std::uint64_t offset, std::uint32_t size,
                            bool plus, int* error = nullptr) {
    fuse_read_in in{};
    in.fh = handle;
    in.offset = offset;
    in.size = size;
    const Answer answer = ask(plus ? FUSE_READDIRPLUS : FUSE_READDIR, node_id, bytes_of(in), size);
    if (error) *error = answer.error;
    std::vector<Name> names;
    const std::size_t head = plus ? sizeof(fuse_entry_out) : 0;
    for (std::size_t at = 0; at + head + sizeof(fuse_dirent) <= answer.data.size();) {
      Name one{};
      if (plus) one.entry = answer.as<fuse_entry_out>(at);
      const auto entry = answer.as<fuse_dirent>(at + head);
      const std::size_t name_at = at + head + offsetof(fuse_dirent, name);
      one.name.assign(reinterpret_cast<const char*>(answer.data.data()) + name_at, entry.namelen);
      one.type = entry.type;
      one.inode = entry.ino;
      one.offset = entry.off;
      names.push_back(one);
      at += head + FUSE_DIRENT_ALIGN(offsetof(fuse_dirent, name) + entry.namelen);
    }
    return names;
  }
  std::vector<Name> list(std::uint64_t node_id, std::uint32_t size = 4096, bool plus = false) {
    const std::uint64_t handle = open(node_id, O_RDONLY, true);
    std::vector<Name> all;
    std::uint64_t offset = 0;
    for (;;) {
      const auto some = readdir(node_id, handle, offset, size, plus);
      if (some.empty()) break;
      all.insert(all.end(), some.begin(), some.end());
      offset = some.back().offset;
    }
    release(node_id, handle, true);
    return all;
  }

  std::uint32_t uid = ::geteuid(), gid = ::getegid();

 private:
  struct Flight {
    Bytes in, args, out, room;
    std::vector<core::ShareSpan> ins, outs;
    Answer answer;
  };
  std::uint64_t launch(std::uint64_t unique, std::unique_ptr<Flight> flight) {
    Flight* const raw = flight.get();
    {
      const std::lock_guard lock(mutex_);
      flights_[unique] = std::move(flight);
    }
    core::ShareRequest request;
    request.in = raw->ins;
    request.out = raw->outs;
    request.completion = [this, raw](std::uint64_t written) {
      EXPECT_TRUE(domain_.held());
      const std::lock_guard lock(mutex_);
      raw->answer.written = written;
      raw->answer.done = true;
      changed_.notify_all();
    };
    const mem::DomainGuard guard(&domain_);
    port_->submit(std::move(request));
    return unique;
  }
  Log log_{[](LogLevel, std::string_view) {}};
  mem::LockDomain domain_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<core::ShareBackend> port_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::uint64_t, std::unique_ptr<Flight>> flights_;
  std::uint64_t next_ = 2;
};

/// A directory of the test's own, gone with it.
class SharedDirectory {
 public:
  SharedDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "husk-hostfs-XXXXXX").string();
    if (::mkdtemp(pattern.data())) base_ = pattern;
    std::filesystem::create_directory(base_ / "share");
  }
  ~SharedDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(base_, ignored);
  }
  /// Of the share, or of what lies beside it.
  std::filesystem::path operator/(const std::string& name) const { return base_ / "share" / name; }
  std::filesystem::path outside(const std::string& name) const { return base_ / name; }
  std::string root() const { return (base_ / "share").string(); }
  void put(const std::string& name, const std::string& content) const { std::ofstream(*this / name) << content; }
  std::string get(const std::string& name) const {
    std::ifstream in(*this / name);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  struct stat stat(const std::string& name) const {
    struct stat result{};
    EXPECT_EQ(::lstat((*this / name).c_str(), &result), 0) << name;
    return result;
  }
  bool exists(const std::string& name) const {
    struct stat ignored{};
    return ::lstat((*this / name).c_str(), &ignored) == 0;
  }

 private:
  std::filesystem::path base_;
};

}  // namespace husk::hostfs
