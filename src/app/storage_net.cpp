// husk: the disks, networks and shared folders of one run
#include "app/storage_net.h"

#include <algorithm>

#include "block/error_injector.h"
#include "block/open.h"
#include "machine/block_bridge.h"
#include "machine/memory_file.h"
#include "netdev/capture.h"
#include "netdev/dgram.h"
#include "netdev/passt.h"
#include "netdev/stream.h"
#include "netdev/tap.h"

namespace husk::app {

namespace {
block::CacheMode cache_mode(machine::CacheMode mode) {
  switch (mode) {
    case machine::CacheMode::none: return block::CacheMode::none;
    case machine::CacheMode::writeback: return block::CacheMode::writeback;
    case machine::CacheMode::writethrough: return block::CacheMode::writethrough;
    case machine::CacheMode::directsync: return block::CacheMode::directsync;
    case machine::CacheMode::unsafe: return block::CacheMode::unsafe;
  }
  return block::CacheMode::writeback;
}

template <class Config>
Result<const Config*> find(const std::vector<Config>& all, const std::string& id, const char* what) {
  const auto found = std::find_if(all.begin(), all.end(), [&](const Config& one) { return one.id == id; });
  if (found == all.end()) return fail("there is no {} '{}'", what, id);
  return &*found;
}
}  // namespace

StorageAndNetworks::~StorageAndNetworks() {
  user_networks_.clear();
  for (auto& [id, disk] : disks_)
    if (auto closed = block::close_node(*blocks_, *disk); !closed)
      log_.error("drive {}: {}", id, closed.error().text());
}

Result<std::unique_ptr<core::BlockBackend>> StorageAndNetworks::attach_drive(const std::string& id,
                                                                             mem::LockDomain& domain, bool read_only) {
  const machine::DriveConfig& config = *HUSK_TRY(find(config_.drives, id, "drive"));
  if (disks_.contains(id)) return fail("two devices want the drive '{}'", id);
  if (!blocks_) blocks_ = HUSK_TRY(block::Context::create(loop_, log_));
  block::DiskOptions options{.path = config.file, .format = config.format, .read_only = config.read_only || read_only};
  options.cache = cache_mode(config.cache);
  options.discard = config.discard;
  options.temporary = config.snapshot;
  auto disk = HUSK_TRY(block::open_disk(*blocks_, options));
  if (!config.injected.empty()) {
    std::vector<block::InjectionRule> rules;
    for (const machine::InjectedError& one : config.injected)
      rules.push_back({one.reads, one.writes, one.flushes, one.error, one.sector, one.once});
    disk = std::make_unique<block::ErrorInjector>(std::move(disk), std::move(rules));
  }
  auto bridge = std::make_unique<machine::BlockBridge>(loop_, domain, *disk);
  disks_.emplace(id, std::move(disk));
  return bridge;
}

Result<std::unique_ptr<core::NetBackend>> StorageAndNetworks::attach_network(const std::string& id,
                                                                             mem::LockDomain& domain) {
  const machine::NetdevConfig& config = *HUSK_TRY(find(config_.netdevs, id, "network"));
  if (!networks_.insert(id).second) return fail("two devices want the network '{}'", id);
  auto opened = open_network(config, domain);
  if (!opened) return std::unexpected(std::move(opened).error().within("network " + id));
  std::unique_ptr<core::NetBackend> network = std::move(*opened);
  for (const machine::FrameDumpConfig& dump : config_.frame_dumps)
    if (dump.netdev == id)
      network =
          netdev::captured(std::move(network), HUSK_TRY(netdev::PacketCapture::create(dump.file, dump.most_bytes)));
  return network;
}

unsigned StorageAndNetworks::network_queues(const std::string& id) const {
  for (const machine::NetdevConfig& config : config_.netdevs)
    if (const auto* tap = std::get_if<machine::TapConfig>(&config.kind); tap && config.id == id) return tap->queues;
  return 1;
}

Result<std::unique_ptr<core::NetBackend>> StorageAndNetworks::open_network(const machine::NetdevConfig& config,
                                                                           mem::LockDomain& domain) {
  if (const auto* tap = std::get_if<machine::TapConfig>(&config.kind))
    return netdev::open_tap(loop_, log_, domain,
                            {.interface = tap->interface,
                             .descriptors = tap->descriptors,
                             .queues = tap->queues,
                             .offloads = tap->offloads,
                             .script = tap->script,
                             .down_script = tap->down_script,
                             .helper = tap->helper,
                             .bridge = tap->bridge});
  if (const auto* stream = std::get_if<machine::StreamConfig>(&config.kind))
    return netdev::open_stream(loop_, log_, domain,
                               {.address = stream->address,
                                .descriptor = stream->descriptor,
                                .server = stream->server,
                                .reconnect = stream->reconnect_ns});
  if (const auto* dgram = std::get_if<machine::DgramConfig>(&config.kind))
    return netdev::open_dgram(loop_, log_, domain,
                              {.local = dgram->local, .remote = dgram->remote, .descriptor = dgram->descriptor});
  if (const auto* passt = std::get_if<machine::PasstConfig>(&config.kind))
    return netdev::open_passt(loop_, log_, domain, passt->program, passt->arguments);
  return open_user(std::get<machine::UserNetConfig>(config.kind), domain);
}

Result<std::unique_ptr<core::NetBackend>> StorageAndNetworks::open_user(const machine::UserNetConfig& user,
                                                                        mem::LockDomain& domain) {
  netdev::UserNetworkOptions options{
      .restricted = user.restricted, .ipv4 = user.ipv4, .ipv6 = user.ipv6, .hostname = user.hostname};
  for (const machine::HostForward& forward : user.forwards)
    options.forwards.push_back(
        {forward.udp, forward.host_address, forward.host_port, forward.guest_address, forward.guest_port});
  user_networks_.push_back(HUSK_TRY(netdev::UserNetwork::create(loop_, log_, std::move(options))));
  return user_networks_.back()->attach(domain);
}

Result<std::unique_ptr<core::PersistentMemory>> StorageAndNetworks::attach_memory(const std::string& id,
                                                                                  mem::LockDomain& domain) {
  const machine::MemoryFileConfig& config = *HUSK_TRY(find(config_.memory_files, id, "memory file"));
  if (!memory_files_.insert(id).second) return fail("two devices want the memory file '{}'", id);
  return HUSK_TRY(machine::MemoryFile::create({config.path, config.size, config.shared}, domain));
}

Result<hostfs::Server*> StorageAndNetworks::serve(const std::string& id) {
  const machine::SharedFolder& config = *HUSK_TRY(find(config_.folders, id, "folder"));
  hostfs::ServerOptions options{.root = config.path, .read_only = config.read_only};
  constexpr std::uint64_t kForever = std::uint64_t{24} * 3600 * 1'000'000'000;
  if (config.cache == machine::ShareCache::none) options.entry_timeout_ns = options.attribute_timeout_ns = 0;
  if (config.cache == machine::ShareCache::always) {
    options.entry_timeout_ns = options.attribute_timeout_ns = options.negative_timeout_ns = kForever;
    options.trust_cache = true;
  }
  folders_.push_back(HUSK_TRY(hostfs::Server::create(std::move(options), log_)));
  return folders_.back().get();
}

Result<std::unique_ptr<core::ShareBackend>> StorageAndNetworks::attach_folder(const std::string& id,
                                                                              mem::LockDomain& domain) {
  return HUSK_TRY(serve(id))->attach(domain);
}

Result<std::unique_ptr<core::ShareBackend>> StorageAndNetworks::attach_ninep(const std::string& id,
                                                                             mem::LockDomain& domain) {
  return HUSK_TRY(serve(id))->attach_ninep(domain);
}

}  // namespace husk::app
