// husk: several front ends on one character device, told apart by commands after Ctrl-A
#include "chardev/mux.h"

#include <algorithm>
#include <array>
#include <utility>

namespace husk::chardev {
namespace {
constexpr std::uint8_t kEscape = 1;  // Ctrl-A
constexpr std::size_t kReadCredit = 4096;
constexpr std::size_t kNoticeLimit = 4096;
constexpr char kHelp[] =
    "\r\n"
    "Ctrl-A h  this help\r\n"
    "Ctrl-A x  quit husk\r\n"
    "Ctrl-A c  switch between the guest's consoles and the monitor\r\n"
    "Ctrl-A b  send a break (magic SysRq on a Linux serial console)\r\n"
    "Ctrl-A Ctrl-A  send Ctrl-A\r\n";
}  // namespace

Mux::Mux(std::unique_ptr<Chardev> backing, host::EventLoop& loop, Environment environment, bool terminal)
    : Chardev(loop, backing->id()),
      environment_(std::move(environment)),
      terminal_(terminal),
      backing_(std::move(backing)) {}

Result<std::unique_ptr<Mux>> Mux::create(std::unique_ptr<Chardev> backing, host::EventLoop& loop,
                                         Environment environment, bool terminal) {
  std::unique_ptr<Mux> mux(new Mux(std::move(backing), loop, std::move(environment), terminal));
  // No domain: everything between the two devices happens on the loop's thread.
  mux->back_end_ = HUSK_TRY(mux->backing_->attach({}, "the multiplexer"));
  Mux* self = mux.get();
  mux->back_end_->set_callbacks({
      .received = [self](std::span<const std::uint8_t> data) { self->received(data); },
      .writable = [self] { self->pump_output(); },
      .connection =
          [self](bool connected) {
            self->connected_->store(connected);
            for (std::size_t i = 0; i < self->front_count(); ++i) self->front(i)->link->set_connected(connected);
          },
      .break_received =
          [self] {
            if (const auto focused = self->front(self->focus_)) focused->link->deliver_break();
          },
  });
  mux->give_credit();
  return mux;
}

Mux::~Mux() {
  flush(500'000'000);
  for (const auto& one : fronts_) one->link->close();
}

std::shared_ptr<Mux::Front> Mux::front(std::size_t index) const {
  const std::lock_guard guard(mutex_);
  return index < fronts_.size() ? fronts_[index] : nullptr;
}

std::size_t Mux::front_count() const {
  const std::lock_guard guard(mutex_);
  return fronts_.size();
}

Result<std::unique_ptr<core::CharBackend>> Mux::attach(DomainRunner run, std::string name) {
  auto one = std::make_shared<Front>();
  one->name = std::move(name);
  one->link = Link::create(loop_, *this, Link::Pace::coalesce);
  auto front_end = one->link->attach(std::move(run));
  loop_.post([weak = std::weak_ptr(one->link), connected = connected_] {
    if (const auto link = weak.lock()) link->set_connected(*connected);
  });
  const std::lock_guard guard(mutex_);
  fronts_.push_back(std::move(one));
  return front_end;
}

void Mux::received(std::span<const std::uint8_t> data) {
  for (const std::uint8_t byte : data) {
    if (std::exchange(escape_, false))
      command(byte);
    else if (byte == kEscape)
      escape_ = true;
    else
      queue_input(byte);
  }
  pump_input();
}

void Mux::queue_input(std::uint8_t byte) {
  const auto focused = front(focus_);
  if (focused && focused->input.size() < kInputLimit) focused->input.push_back(byte);
}

void Mux::command(std::uint8_t key) {
  switch (key) {
    case 'x':
      say("\r\nhusk: quit\r\n");
      if (environment_.quit) environment_.quit();
      break;
    case 'c': next_focus(); break;
    case 'b':
      if (const auto focused = front(focus_)) focused->link->deliver_break();
      break;
    case 'h':
    case '?': say(kHelp); break;
    case 's': say("\r\nhusk: Ctrl-A s is reserved\r\n"); break;
    case kEscape: queue_input(kEscape); break;
    default: break;
  }
}

void Mux::next_focus() {
  const std::size_t count = front_count();
  for (std::size_t step = 1; step < count; ++step) {
    const std::size_t index = (focus_ + step) % count;
    const auto candidate = front(index);
    if (!candidate->link->attached()) continue;
    focus_ = index;
    say(fmt::format("\r\nhusk: input goes to {}\r\n", candidate->name));
    return;
  }
  say("\r\nhusk: there is nothing else on this terminal to switch to\r\n");
}

void Mux::say(const std::string& text) {
  if (notice_.size() + text.size() > kNoticeLimit) return;
  notice_ += text;
  pump_output();
}

void Mux::pump_output() {
  if (pumping_) return;
  pumping_ = true;
  bool blocked = false;
  if (!notice_.empty()) {
    const std::size_t taken = back_end_->write({reinterpret_cast<const std::uint8_t*>(notice_.data()), notice_.size()});
    notice_.erase(0, taken);
    blocked = !notice_.empty();
  }
  for (std::size_t i = 0; i < front_count() && !blocked; ++i) {
    Link& link = *front(i)->link;
    for (auto chunk = link.output(); !chunk.empty(); chunk = link.output()) {
      const std::size_t taken = back_end_->write(chunk);
      link.consume(taken);
      if (taken < chunk.size()) {
        blocked = true;  // the `writable` callback goes on
        break;
      }
    }
    if (!blocked) link.idle();
  }
  pumping_ = false;
}

void Mux::pump_input() {
  // Not only the one in focus: the others may have input from before the focus left them.
  for (std::size_t i = 0; i < front_count(); ++i) pump_input(*front(i));
  give_credit();
}

void Mux::pump_input(Front& to) {
  std::array<std::uint8_t, 256> piece;
  while (!to.input.empty()) {
    const std::size_t count = std::min(piece.size(), to.input.size());
    std::copy_n(to.input.begin(), count, piece.begin());
    const std::size_t taken = to.link->deliver({piece.data(), count});
    to.input.erase(to.input.begin(), to.input.begin() + static_cast<std::ptrdiff_t>(taken));
    if (taken == 0 && to.link->want_credit()) break;
  }
}

void Mux::give_credit() {
  std::size_t credit = kReadCredit;
  if (!terminal_)
    if (const auto focused = front(focus_)) credit = std::min(credit, kInputLimit - focused->input.size());
  back_end_->set_read_credit(credit);
}

bool Mux::try_drain() {
  pump_output();
  bool empty = backing_->try_drain() && notice_.empty();
  for (std::size_t i = 0; i < front_count(); ++i) empty = empty && front(i)->link->output().empty();
  return empty;
}

}  // namespace husk::chardev
