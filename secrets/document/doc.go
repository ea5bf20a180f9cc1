// Package document reads and writes libvirt's <secret> documents
// (https://libvirt.org/formatsecret.html):
//
//	<secret ephemeral='no' private='yes'>
//	  <uuid>0a81f5b2-8403-4b23-88d6-21ccc2f80d6f</uuid>
//	  <description>passphrase of vm1's second disk</description>
//	  <usage type='volume'>
//	    <volume>/var/lib/luksplug/images/vm1-vdb.img</volume>
//	  </usage>
//	</secret>
//
// Reading is strict: an attribute, element or text that the format does not have
// is an error that names it, where libvirt silently ignores it. What
// was meant as private='yes' must not end as a public secret because of a typing
// error. Writing is canonical: equal documents are equal bytes, and what was
// written reads back the same, in libvirt too.
package document
