// husk: messages from husk's guest program to husk
#include "report.h"

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/reboot.h>
#include <linux/time_types.h>

namespace husk::guest {

namespace {

void sleep_ms(long ms) {
  __kernel_timespec time{ms / 1000, ms % 1000 * 1'000'000};
  call(__NR_nanosleep, &time, nullptr);
}

/// Sends the kernel's log from its beginning; a record a read (Documentation/ABI/testing/dev-kmsg).
void send_log(const Control& control) {
  const Word log = open("/dev/kmsg", O_RDONLY | O_NONBLOCK);
  if (log < 0) return;
  static char record[8192];
  for (;;) {
    const Word size = read(log, record, sizeof record);
    if (size == -EPIPE) continue;  // overwritten meanwhile
    if (size <= 0) break;
    // "priority,sequence,microseconds,flags;text\n", continued by lines of " KEY=value".
    Word begin = 0;
    while (begin < size && record[begin] != ';') ++begin;
    Word end = ++begin;
    while (end < size && record[end] != '\n') ++end;
    if (end >= size) continue;
    const Size length = static_cast<Size>(end + 1 - begin);
    send(control, ToHost::log, record + begin, length < kMostMessage ? length : kMostMessage);
  }
  close(log);
}

}  // namespace

const char* error_text(Word error) {
  switch (error < 0 ? -error : error) {
    case EPERM: return "not permitted";
    case ENOENT: return "no such file or directory";
    case EIO: return "input/output error";
    case E2BIG: return "its arguments and environment are too long";
    case ENOEXEC: return "not in a format that can be executed";
    case ENOMEM: return "out of memory";
    case EACCES: return "permission denied";
    case EBUSY: return "busy";
    case ENODEV: return "no such device or file system type";
    case ENOTDIR: return "not a directory";
    case EINVAL: return "invalid argument";
    case ENOSPC: return "no space left";
    case ELOOP: return "too many symbolic links";
    case ENOSYS: return "not implemented by this kernel";
    case EKEYREJECTED: return "its signature was rejected by this kernel";
    default: return nullptr;
  }
}

void send(const Control& control, ToHost kind, const void* data, Size size) {
  static unsigned char message[sizeof(MessageHeader) + kMostMessage];
  if (size > kMostMessage) size = kMostMessage;
  const MessageHeader header{static_cast<unsigned char>(kind), 0, static_cast<unsigned short>(size)};
  memcpy(message, &header, sizeof header);
  memcpy(message + sizeof header, data, size);
  if (control.fd >= 0) {
    write(control.fd, message, sizeof header + size);
    return;
  }
  if (kind != ToHost::failed) return;
  // The console is all there is.
  const Word console = open("/dev/console", O_WRONLY | O_NOCTTY);
  const char start[] = "husk: ";
  write(console, start, sizeof start - 1);
  write(console, data, size);
  write(console, "\n", 1);
}

void fail(const Control& control, const char* what, const char* object, Word error) {
  Text<1024> text;
  text << what << object;
  if (error) {
    text << ": ";
    if (const char* known = error_text(error))
      text << known;
    else
      text << "error " << static_cast<unsigned long>(error < 0 ? -error : error);
  }
  // Its own log first: the message ends the machine.
  if (control.fd >= 0) send_log(control);
  send(control, ToHost::failed, text.text(), text.size());
  if (control.fd < 0) call(__NR_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_POWER_OFF, nullptr);
  wait_for_end();
}

void wait_for_end() {
  sleep_ms(20'000);
  call(__NR_sync);
  call(__NR_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_POWER_OFF, nullptr);
  for (;;) sleep_ms(1'000);
}

}  // namespace husk::guest
