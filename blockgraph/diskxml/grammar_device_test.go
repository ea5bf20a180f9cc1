package diskxml

// fullDevice has every element and nearly every attribute that says what the
// guest sees of a disk, each element on a line of its own.
const fullDevice = `<disk type='file' device='disk' model='virtio'>
  <driver name='qemu' type='raw' queues='2' queue_size='64' ioeventfd='on' event_idx='on' iommu='on' ats='on' packed='on' page_per_vq='on'>
    <iothreads>
      <iothread id='1'>
        <queue id='0'/>
        <queue id='1'/>
      </iothread>
    </iothreads>
  </driver>
  <source file='/a'/>
  <target dev='vdb' bus='virtio'/>
  <shareable/>
  <boot order='1'/>
  <acpi index='1'/>
  <blockio logical_block_size='512' physical_block_size='4096' discard_granularity='4096'/>
  <geometry cyls='1' heads='1' secs='1'/>
  <iotune>
    <total_bytes_sec>1</total_bytes_sec>
  </iotune>
</disk>`
