// framework/tensors/caching_allocator.h: large CPU tensors keep their pages when they are freed,
// for the next tensor of about that size. A training step asks for the same sizes in the same order
// again and again; the C library's heap, which has no such lists, breaks into gaps under that and
// grows to nearly twice what is in use at once.
#pragma once

#include <c10/core/Allocator.h>

#include <cstddef>
#include <map>
#include <mutex>
#include <unordered_map>

namespace regroup {

class CachingAllocator : public c10::Allocator {
 public:
  /// Sizes below this go to LibTorch's own allocator.
  static constexpr size_t kSmallest = size_t{1} << 20;
  /// The one of this process; never destroyed, for tensors of static lifetime.
  static CachingAllocator& instance();

  /// Throws c10::OutOfMemoryError where the system gives no more.
  c10::DataPtr allocate(size_t n_bytes) override;
  c10::DeleterFnPtr raw_deleter() const override { return &free_data; }
  void copy_data(void* to, const void* from, size_t n_bytes) const override {
    default_copy_data(to, from, n_bytes);
  }

  /// Bytes that tensors hold, and bytes taken from the system; large tensors only.
  size_t used_bytes() const;
  size_t mapped_bytes() const;
  /// Gives all memory that no tensor holds back to the system.
  void release_unused();

 private:
  CachingAllocator();
  static void free_data(void* data);
  void* take(size_t size);
  bool put_back(void* data);
  void make_room(size_t size);
  void unmap(std::multimap<size_t, void*>::iterator unused);

  c10::Allocator* const small_;
  mutable std::mutex mutex_;
  std::unordered_map<void*, size_t> in_use_;  // sizes
  std::multimap<size_t, void*> unused_;       // by size
  size_t used_ = 0, mapped_ = 0, most_used_ = 0;
};

}  // namespace regroup
