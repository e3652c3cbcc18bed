// husk: virtio-scsi
#include "devices/virtio/scsi.h"

#include <algorithm>
#include <bit>

#include "base/bits.h"

namespace husk::devices::virtio {

namespace {
constexpr unsigned kControlQueue = 0, kEventQueue = 1, kFirstRequestQueue = 2;
constexpr unsigned kConfigBytes = 36;
constexpr unsigned kHotplug = 1, kChange = 2;  // feature bits (5.6.3)
constexpr std::uint32_t kDefaultSense = 96, kDefaultCdb = 32;

// 5.6.6.1: command requests and their responses, without CDB and sense data.
constexpr unsigned kRequestBytes = 19, kResponseBytes = 12;
// Responses (5.6.6.1, 5.6.6.2).
constexpr std::uint8_t kOk = 0, kOverrun = 1, kAborted = 2, kBadTarget = 3, kReset = 4, kFailure = 9,
                       kFunctionSucceeded = 10, kFunctionRejected = 11, kIncorrectLun = 12;
// 5.6.6.2: the control queue.
constexpr std::uint32_t kTaskManagement = 0, kNotificationQuery = 1, kNotificationSubscribe = 2;
constexpr unsigned kTaskBytes = 24, kNotificationBytes = 16;
enum TaskFunction : std::uint32_t {
  kAbortTask = 0,
  kAbortTaskSet = 1,
  kClearAca = 2,
  kClearTaskSet = 3,
  kNexusReset = 4,
  kUnitReset = 5,
  kQueryTask = 6,
  kQueryTaskSet = 7,
};
// 5.6.6.3: events.
constexpr unsigned kEventBytes = 16;
constexpr std::uint32_t kNoEvent = 0, kTransportReset = 1, kParameterChange = 3, kEventsMissed = 0x80000000;
constexpr std::uint32_t kRescan = 1, kRemoved = 2;

std::uint64_t flag(unsigned n) { return std::uint64_t{1} << n; }

/// The pieces of [from, end) of a buffer.
std::uint64_t collect(std::span<const Segment> segments, std::uint64_t from, std::vector<core::BlockSpan>& into) {
  std::uint64_t sum = 0;
  for (const Segment& segment : segments) {
    const std::uint64_t dropped = std::min<std::uint64_t>(from, segment.length);
    from -= dropped;
    const std::uint64_t count = segment.length - dropped;
    if (count) into.emplace_back(segment.data + dropped, static_cast<std::size_t>(count));
    sum += count;
  }
  return sum;
}

VirtioDevice::Traits traits_of(const Scsi::Config& config) {
  return {.type = DeviceType::scsi,
          .features = flag(kHotplug) | flag(kChange),
          .queue_sizes = std::vector<std::uint16_t>(config.queues + kFirstRequestQueue, config.queue_size),
          .config_size = kConfigBytes,
          .ring = config.ring};
}

Status check_place(const Scsi::Place& place) {
  if (place.target > Scsi::kMostTarget) return fail("SCSI id {} is not 0 to {}", place.target, Scsi::kMostTarget);
  if (place.lun > scsi::Target::kMostLun) return fail("LUN {} is not 0 to {}", place.lun, scsi::Target::kMostLun);
  return {};
}
}  // namespace

Result<std::unique_ptr<Scsi>> Scsi::create(Environment environment, std::vector<Place> units, Config config) {
  if (config.queues < 1 || config.queues > 1024)
    return fail("{}: {} queues are not 1 to 1024", config.id, config.queues);
  if (!std::has_single_bit(config.queue_size) || config.queue_size < 4 || config.queue_size > 1024)
    return fail("{}: the queue size {} is no power of two from 4 to 1024", config.id, config.queue_size);
  for (std::size_t i = 0; i < units.size(); ++i) {
    HUSK_TRY(check_place(units[i]));
    for (std::size_t j = 0; j < i; ++j)
      if (units[i].target == units[j].target && units[i].lun == units[j].lun)
        return fail("{}: two units are SCSI id {}, LUN {}", config.id, units[i].target, units[i].lun);
  }
  return std::unique_ptr<Scsi>(new Scsi(environment, std::move(units), std::move(config)));
}

Scsi::Scsi(Environment environment, std::vector<Place> units, Config config)
    : Base(config.id, environment, traits_of(config)), config_(std::move(config)) {
  keep_held_in(state_.held);
  for (Place& place : units) attach(std::move(place));
}

void Scsi::attach(Place place) {
  const Address address{place.target, place.lun};
  place.unit->set_news([this, address](std::uint16_t attention) {
    // 5.6.6.3.3: ASC in the low byte of the reason, ASCQ in the next.
    if (negotiated_bit(kChange))
      send_event(kParameterChange, address, static_cast<std::uint32_t>((attention >> 8) | (attention & 0xFF) << 8));
  });
  targets_[place.target].add(place.lun, *place.unit);
  units_.push_back(std::move(place));
}

Status Scsi::plug(Place place) {
  HUSK_TRY(check_place(place));
  if (unit(place.target, place.lun))
    return fail("{}: SCSI id {}, LUN {} is taken", config_.id, place.target, place.lun);
  const Address address{place.target, place.lun};
  attach(std::move(place));
  if (negotiated_bit(kHotplug)) send_event(kTransportReset, address, kRescan);
  return {};
}

Status Scsi::unplug(unsigned target_number, unsigned lun, std::function<void()> done) {
  const auto found = std::find_if(units_.begin(), units_.end(), [&](const Place& place) {
    return place.target == target_number && place.lun == lun;
  });
  if (found == units_.end()) return fail("{}: there is no unit at SCSI id {}, LUN {}", config_.id, target_number, lun);
  const std::shared_ptr<scsi::LogicalUnit> leaving = std::move(found->unit);
  units_.erase(found);
  targets_[target_number].remove(lun);
  if (targets_[target_number].empty()) targets_.erase(target_number);
  // The last command that it has keeps it alive until it has ended.
  const auto last = std::make_shared<std::function<void()>>([leaving, done = std::move(done)] { done(); });
  const auto waiting = running({target_number, lun}, false);
  const auto left = std::make_shared<std::size_t>(waiting.size() + 1);
  const auto one_ended = [left, last] {
    if (--*left == 0) (*last)();
  };
  for (const auto& request : waiting) abort(request, kAborted, one_ended);
  if (negotiated_bit(kHotplug)) send_event(kTransportReset, {target_number, lun}, kRemoved);
  one_ended();
  return {};
}

scsi::Target* Scsi::target(unsigned number) {
  const auto found = targets_.find(number);
  return found == targets_.end() ? nullptr : &found->second;
}

scsi::LogicalUnit* Scsi::unit(unsigned target_number, unsigned lun) {
  scsi::Target* const there = target(target_number);
  return there ? there->unit(lun) : nullptr;
}

// ---- configuration and state ----

void Scsi::fill_config(std::span<std::uint8_t> bytes) {
  const auto put32 = [&](unsigned at, std::uint32_t value) { store_le<std::uint32_t>(&bytes[at], value); };
  put32(0, config_.queues);
  put32(4, config_.queue_size - 2u);
  put32(8, config_.max_sectors);
  put32(12, config_.commands_per_unit);
  put32(16, kEventBytes);
  put32(20, state_.sense_size);
  put32(24, state_.cdb_size);
  store_le<std::uint16_t>(&bytes[30], kMostTarget);
  put32(32, scsi::Target::kMostLun);
}

void Scsi::config_written(std::uint64_t offset, std::uint64_t value, unsigned size) {
  if (size != 4) return;
  if (offset == 20) {
    if (value > 0xFFFF) return needs_reset(fmt::format("a sense size of {} bytes", value));
    state_.sense_size = static_cast<std::uint32_t>(value);
  } else if (offset == 24) {
    if (value > 0xFF) return needs_reset(fmt::format("a CDB size of {} bytes", value));
    state_.cdb_size = static_cast<std::uint32_t>(value);
  }
}

void Scsi::device_reset() {
  state_.sense_size = kDefaultSense;
  state_.cdb_size = kDefaultCdb;
  state_.events_missed = false;
  // What runs is to end soon; nobody waits for its answer.
  for (const auto& request : std::vector(requests_)) abort(request, kReset, {});
  for (const Place& place : units_) place.unit->power_on();
}

Status Scsi::validate_device(const ScsiState& incoming) const {
  if (incoming.units.size() != units_.size())
    return fail("the saved state has {} logical units, this device {}", incoming.units.size(), units_.size());
  for (const scsi::UnitState& one : incoming.units) HUSK_TRY(scsi::LogicalUnit::validate(one));
  return validate_held(incoming.held);
}

void Scsi::before_save() {
  state_.units.clear();
  for (const Place& place : units_) state_.units.push_back(place.unit->state());
}

void Scsi::loaded() {
  for (std::size_t i = 0; i < units_.size(); ++i) units_[i].unit->load(state_.units[i]);
}

// ---- commands ----

void Scsi::start() { resume_requests(); }

void Scsi::resume_requests() {
  resume_held([this](unsigned index, Chain& chain) { start_request(index, std::move(chain)); });
}

void Scsi::handle_queue(unsigned index) {
  if (index == kEventQueue) {
    if (state_.events_missed) send_event(kNoEvent, {0, 0}, 0);
    return;
  }
  if (index == kControlQueue) {
    drain_queue(index, [this](Chain& chain) {
      start_control(chain);
      return true;
    });
    return;
  }
  for (const Place& place : units_) place.unit->begin_batch();
  in_batch_ = true;
  drain_queue(index, [&](Chain& chain) {
    start_request(index, std::move(chain));
    return true;
  });
  in_batch_ = false;
  for (const Place& place : units_) place.unit->end_batch();
  interrupt_queue(index);
}

std::optional<Scsi::Address> Scsi::address_of(std::span<const std::uint8_t, 8> lun) {
  // 5.6.6.1: 1, the target, a single-level LUN; peripheral or flat space addressing.
  if (lun[0] != 1 || (lun[2] != 0 && (lun[2] & 0xC0) != 0x40)) return std::nullopt;
  if (std::any_of(lun.begin() + 4, lun.end(), [](std::uint8_t byte) { return byte != 0; })) return std::nullopt;
  return Address{lun[1], static_cast<unsigned>((lun[2] << 8 | lun[3]) & 0x3FFF)};
}

void Scsi::start_request(unsigned index, Chain chain) {
  const std::uint64_t header = kRequestBytes + state_.cdb_size;
  const std::uint64_t response = kResponseBytes + state_.sense_size;
  if (chain.readable_bytes() < header || chain.writable_bytes() < response)
    return needs_reset("a SCSI request has no room for its CDB or its response");
  const auto request = std::make_shared<Request>();
  request->chain = std::move(chain);
  request->queue = index;
  request->data_at = response;
  request->command = std::make_shared<scsi::Command>();
  work_begins(index);
  requests_.push_back(request);

  std::array<std::uint8_t, kRequestBytes> raw{};
  request->chain.read(0, raw);
  request->tag = load_le<std::uint64_t>(&raw[8]);
  scsi::Command& command = *request->command;
  request->chain.read(kRequestBytes,
                      std::span(command.cdb).first(std::min<std::size_t>(state_.cdb_size, scsi::Command::kMostCdb)));
  command.out_bytes = collect(request->chain.readable(), header, command.out);
  command.in_bytes = collect(request->chain.writable(), response, command.in);
  command.done = [this, request] { finish(request); };
  const auto address = address_of(std::span(raw).first<8>());
  scsi::Target* const there = address ? target(address->target) : nullptr;
  if (!there) {
    request->response = kBadTarget;
    return finish(request);
  }
  request->target = address->target;
  request->lun = address->lun;
  request->unit = there->unit(address->lun);
  // Both directions at once would want INOUT, which is not offered.
  if (command.out_bytes && command.in_bytes) {
    request->response = kFailure;
    return finish(request);
  }
  there->execute(address->lun, request->command);
}

void Scsi::finish(const std::shared_ptr<Request>& request) {
  const std::shared_ptr<Request> kept = request;  // the command's completion, which goes here, may be its last owner
  scsi::Command& command = *kept->command;
  command.done = nullptr;
  std::erase(requests_, kept);
  const auto waiters = std::exchange(kept->waiters, {});
  if (command.moved && command.in_bytes) kept->chain.note_written(kept->data_at, command.moved);
  if (command.touched_in) kept->chain.note_written(kept->data_at, command.in_bytes);
  if (command.stop_for && kept->response == kOk) {
    if (config_.stop && hold(kept->queue, kept->chain)) {
      config_.stop(command.stop_for, command.writing);
      for (const auto& waiter : waiters) waiter();
      return;
    }
    // Nobody can stop the machine: I/O PROCESS TERMINATED.
    command.status = scsi::CommandStatus::check_condition;
    command.sense = scsi::encode({scsi::Key::aborted_command, 0x0006}, false);
  }
  if (command.overrun && kept->response == kOk) kept->response = kOverrun;
  std::array<std::uint8_t, kResponseBytes> raw{};
  const bool answered = kept->response == kOk;
  const auto sense_bytes =
      answered ? std::min<std::size_t>(command.sense.length, kept->data_at - kResponseBytes) : std::size_t{0};
  const std::uint64_t moved = answered ? command.moved : 0;
  const std::uint64_t residual = command.out_bytes + command.in_bytes - moved;
  store_le<std::uint32_t>(&raw[0], static_cast<std::uint32_t>(sense_bytes));
  store_le<std::uint32_t>(&raw[4], static_cast<std::uint32_t>(std::min<std::uint64_t>(residual, 0xFFFFFFFF)));
  raw[10] = answered ? static_cast<std::uint8_t>(command.status) : std::uint8_t{0};
  raw[11] = kept->response;
  kept->chain.write(0, raw);
  kept->chain.write(kResponseBytes, std::span(command.sense.bytes).first(sense_bytes));
  give(kept->queue, kept->chain, kept->data_at + (command.in_bytes ? moved : 0));
  if (!in_batch_) interrupt_queue(kept->queue);
  work_ended(kept->queue);
  for (const auto& waiter : waiters) waiter();
}

// ---- task management ----

std::vector<std::shared_ptr<Scsi::Request>> Scsi::running(const Address& address, bool whole_target) const {
  std::vector<std::shared_ptr<Request>> found;
  for (const auto& request : requests_)
    if (request->unit && request->target == address.target && (whole_target || request->lun == address.lun))
      found.push_back(request);
  return found;
}

void Scsi::abort(std::shared_ptr<Request> request, std::uint8_t response, std::function<void()> then) {
  request->response = response;
  if (then) request->waiters.push_back(std::move(then));
  if (request->unit) request->unit->abort(request->command);
}

void Scsi::start_control(Chain& chain) {
  std::array<std::uint8_t, kTaskBytes> raw{};
  const std::size_t got = chain.read(0, raw);
  const auto type = load_le<std::uint32_t>(&raw[0]);
  if (got >= kNotificationBytes && chain.writable_bytes() >= 5 &&
      (type == kNotificationQuery || type == kNotificationSubscribe)) {
    // No asynchronous notifications: none of those that were asked for.
    const std::array<std::uint8_t, 5> answer{};
    chain.write(0, answer);
    return give(kControlQueue, chain, answer.size());
  }
  if (got < kTaskBytes || chain.writable_bytes() < 1 || type != kTaskManagement)
    return needs_reset(fmt::format("a SCSI control request of type {} is too short or unknown", type));
  work_begins(kControlQueue);
  const auto task = std::make_shared<Task>();
  task->chain = std::move(chain);
  const std::uint8_t response = manage(task->chain, task);
  task->chain.write(0, std::span(&response, 1));
  task_ended(task);
}

std::uint8_t Scsi::manage(const Chain& chain, const std::shared_ptr<Task>& task) {
  std::array<std::uint8_t, kTaskBytes> raw{};
  chain.read(0, raw);
  const auto function = load_le<std::uint32_t>(&raw[4]);
  const auto tag = load_le<std::uint64_t>(&raw[16]);
  const auto address = address_of(std::span(raw).subspan<8, 8>());
  if (!address || !target(address->target)) return kBadTarget;
  const bool whole_target = function == kNexusReset;
  scsi::LogicalUnit* const there = unit(address->target, address->lun);
  if (!there && !whole_target) return kIncorrectLun;
  // Requests that wait for the machine to run are as good as running.
  resume_requests();
  auto concerned = running(*address, whole_target);
  if (function == kAbortTask || function == kQueryTask)
    std::erase_if(concerned, [&](const auto& request) { return request->tag != tag; });
  switch (function) {
    case kQueryTask:
    case kQueryTaskSet: return concerned.empty() ? kOk : kFunctionSucceeded;
    case kAbortTask:
    case kAbortTaskSet:
    case kClearTaskSet:
    case kUnitReset:
    case kNexusReset: break;
    default: return kFunctionRejected;  // CLEAR ACA among them: there is no ACA without NormACA
  }
  const bool reset = function == kUnitReset || function == kNexusReset;
  // 5.6.6.2: the function is complete when all those commands have been answered.
  task->done_when += static_cast<unsigned>(concerned.size());
  for (const auto& request : concerned) abort(request, reset ? kReset : kAborted, [this, task] { task_ended(task); });
  if (reset)
    for (const Place& place : units_)
      if (place.target == address->target && (whole_target || place.lun == address->lun)) place.unit->reset_unit();
  return kOk;
}

void Scsi::task_ended(const std::shared_ptr<Task>& task) {
  if (--task->done_when != 0) return;
  give(kControlQueue, task->chain, 1);
  interrupt_queue(kControlQueue);
  work_ended(kControlQueue);
}

// ---- events ----

void Scsi::send_event(std::uint32_t event, const Address& address, std::uint32_t reason) {
  Chain chain;
  if (!driver_ok()) return;
  if (!take(kEventQueue, chain)) {
    state_.events_missed = true;
    return;
  }
  if (chain.writable_bytes() < kEventBytes) return needs_reset("an event buffer of a SCSI controller is too small");
  std::array<std::uint8_t, kEventBytes> raw{};
  if (std::exchange(state_.events_missed, false)) event |= kEventsMissed;
  store_le<std::uint32_t>(&raw[0], event);
  raw[4] = 1;
  raw[5] = static_cast<std::uint8_t>(address.target);
  // Linux's driver takes the two bytes as the number, so that flat space addressing is only for what needs it.
  const unsigned lun = address.lun < 256 ? address.lun : 0x4000 | address.lun;
  raw[6] = static_cast<std::uint8_t>(lun >> 8);
  raw[7] = static_cast<std::uint8_t>(lun);
  store_le<std::uint32_t>(&raw[12], reason);
  chain.write(0, raw);
  give(kEventQueue, chain, kEventBytes);
  interrupt_queue(kEventQueue);
}

}  // namespace husk::devices::virtio
