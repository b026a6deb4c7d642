// framework/tensors/caching_allocator.h: keeps the pages of a freed large CPU tensor for the next
// ones, under other addresses where their sizes differ. A training step allocates the same sizes in
// the same order again and again; the C library's heap, which keeps no lists by size, fragments
// under that and grows to nearly twice the bytes in use.
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
  /// The instance of this process. It is never destroyed, because static tensors may outlive it.
  static CachingAllocator& instance();

  /// Throws c10::OutOfMemoryError where the system has no more memory.
  c10::DataPtr allocate(size_t n_bytes) override;
  c10::DeleterFnPtr raw_deleter() const override { return &free_data; }
  void copy_data(void* to, const void* from, size_t n_bytes) const override {
    default_copy_data(to, from, n_bytes);
  }

  /// Bytes that large tensors hold, and bytes mapped from the system for them.
  size_t used_bytes() const;
  size_t mapped_bytes() const;
  /// Returns all memory that no tensor holds to the system.
  void release_unused();

 private:
  CachingAllocator();
  static void free_data(void* data);
  void* take(size_t size);
  bool put_back(void* data);
  void fill_with_unused_pages(char* block, size_t size);
  void unmap(std::multimap<size_t, void*>::iterator unused);

  c10::Allocator* const small_;
  mutable std::mutex mutex_;
  std::unordered_map<void*, size_t> in_use_;  // size of each
  std::multimap<size_t, void*> unused_;       // by size
  size_t used_ = 0, mapped_ = 0, most_used_ = 0;
};

}  // namespace regroup
